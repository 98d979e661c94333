//! Training the model on a mesh, and what came of it.

use std::collections::BTreeMap;
use std::time::Duration;

use burn::backend::Flex;
use burn::tensor::{Device, Int, Tensor, TensorData};
use dream_trainer::comm::{CommTimeouts, MeshComm, OpCount, RankContext, ReduceOp, launch_threads};
use dream_trainer::fsdp::{
    ActivationCheckpointing, FsdpError, FullyShard, FullyShardConfig, axes_to_reduce,
};
use dream_trainer::kernels;
use dream_trainer::mesh::{AxisSet, Block, Degrees, MeshOrder};
use dream_trainer::nn::{self, Scope};
use dream_trainer::optim::{Optimizer, OptimizerConfig, OptimizerName};

use crate::model::{Model, VOCABULARY};
use crate::place::device;

/// What to train and how.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) degrees: Degrees,
    pub(crate) config: FullyShardConfig,
    pub(crate) checkpointing: ActivationCheckpointing,
    pub(crate) optimizer: OptimizerName,
    pub(crate) blocks: usize,
    pub(crate) steps: usize,
    pub(crate) microbatches: usize,
}

impl Default for Case {
    fn default() -> Self {
        Self {
            degrees: Degrees::default(),
            config: FullyShardConfig::default(),
            checkpointing: ActivationCheckpointing::None,
            optimizer: OptimizerName::Sgd,
            blocks: 2,
            steps: 10,
            microbatches: 1,
        }
    }
}

/// A block of a tensor by parameter path.
pub(crate) type Blocks = BTreeMap<String, (Block, Vec<usize>, Vec<f32>)>;

/// How training went on one rank.
pub(crate) type Outcome = Result<Seen, FsdpError>;

/// What one rank saw.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    pub(crate) losses: Vec<f64>,
    pub(crate) norms: Vec<f64>,
    pub(crate) first_gradients: Blocks,
    pub(crate) parameters: Blocks,
    /// Where each parameter rests.
    pub(crate) devices: BTreeMap<String, Device>,
    /// Operations of the shard group in the last step.
    pub(crate) operations: BTreeMap<&'static str, OpCount>,
    /// Bytes of gathered parameters: the peak of the last step, and what is left after it.
    pub(crate) gathered_peak: usize,
    pub(crate) gathered_after: usize,
}

impl Case {
    pub(crate) fn world_size(&self) -> usize {
        let size = |degree| match degree {
            dream_trainer::mesh::Degree::Fixed(n) => n,
            dream_trainer::mesh::Degree::Auto => 1,
        };
        let Degrees { pp, dp_replicate, dp_shard, cp, tp } = self.degrees;
        [pp, dp_replicate, dp_shard, cp, tp].map(size).iter().product()
    }

    /// Trains on thread ranks and returns what each saw.
    pub(crate) fn run(&self) -> Vec<Seen> {
        self.run_with(|_, train| train())
    }

    /// Trains on thread ranks, each within a function of the test.
    pub(crate) fn run_with(
        &self,
        around: impl Fn(usize, &dyn Fn() -> Outcome) -> Outcome + Sync,
    ) -> Vec<Seen> {
        let timeouts = CommTimeouts::uniform(Duration::from_mins(1));
        match launch_threads(self.world_size(), timeouts, |rank| {
            around(rank.rank(), &|| self.train(&rank))
        }) {
            Ok(seen) => seen,
            Err(failure) => panic!("{failure}"),
        }
    }

    fn train(&self, rank: &RankContext) -> Result<Seen, FsdpError> {
        let mesh = self
            .degrees
            .resolve(self.world_size(), MeshOrder::default())
            .expect("the world fits the mesh");
        let comm = MeshComm::new(rank.fabric.clone(), mesh, rank.rank())
            .expect("the fabric fits the mesh");
        let scope = Scope::root(self.checkpointing.device(device().autodiff()), 7);
        let fsdp = FullyShard::new(&self.config, &comm, &scope)?;
        let model =
            Model::new(&scope, self.blocks).checkpointed(self.checkpointing)?.sharded(&fsdp)?;
        let mut model = nn::map_values(model, |_, value| Ok::<_, FsdpError>(value))?;
        let config =
            OptimizerConfig { name: self.optimizer, lr: 0.05, ..OptimizerConfig::default() };
        let mut optimizer = Optimizer::new("main", config.resolve().expect("a valid table"));
        let mut seen = Seen::default();
        for step in 0..self.steps {
            let before = comm.group(AxisSet::FSDP).counters().snapshot();
            fsdp.gathered_bytes().take_peak();
            let mut gradients = BTreeMap::new();
            let mut loss = 0.0;
            for microbatch in 0..self.microbatches {
                fsdp.set_last_microbatch(microbatch + 1 == self.microbatches);
                let (ids, labels) = Self::batch(step, microbatch, &comm);
                let sum = model.loss(ids, labels);
                loss += sum.clone().into_scalar::<f64>();
                let mut tape = (sum * (1.0 / self.targets())).backward();
                nn::take_gradients(&model, &mut tape, |path, gradient| {
                    let sum = match gradients.remove(path) {
                        Some(sum) => kernels::accumulate(sum, gradient),
                        None => gradient,
                    };
                    gradients.insert(path.to_owned(), sum);
                });
            }
            seen.gathered_peak = fsdp.gathered_bytes().take_peak();
            seen.operations = difference(&before, &comm.group(AxisSet::FSDP).counters().snapshot());
            let norm = reduce(&scope, &comm, &mut gradients);
            let mut losses = [loss / self.targets()];
            comm.group(AxisSet::LOSS)
                .all_reduce_scalars(&mut losses, ReduceOp::Sum)
                .expect("ranks are there");
            seen.losses.push(losses[0]);
            seen.norms.push(norm);
            if step == 0 {
                seen.first_gradients = blocks(&scope, gradients.clone());
            }
            optimizer.begin();
            model = nn::map_values(model, |entry, value| {
                let gradient =
                    gradients.remove(&entry.path).expect("every parameter has a gradient");
                let value = alone(value, &entry.path);
                Ok::<_, FsdpError>(optimizer.update(&entry.path, value, gradient, 0.05, 1.0))
            })?;
            seen.gathered_after = fsdp.gathered_bytes().live();
        }
        let mut values = BTreeMap::new();
        nn::for_each_value(&model, |path, _, value| {
            values.insert(path.to_owned(), value);
        });
        seen.parameters = blocks(&scope, values);
        let entries = nn::parameters(&model).into_iter();
        seen.devices = entries.map(|entry| (entry.path, entry.device)).collect();
        Ok(seen)
    }

    fn targets(&self) -> f64 {
        (SEQUENCES * LENGTH * self.microbatches) as f64
    }

    /// Returns this rank's rows of a batch that is the same for every mesh.
    fn batch(step: usize, microbatch: usize, comm: &MeshComm) -> (Tensor<2, Int>, Tensor<2, Int>) {
        let loss = comm.group(AxisSet::LOSS);
        let rows = SEQUENCES / loss.size();
        let first = loss.rank() * rows;
        let token = |row: usize, i: usize| {
            ((row * 7 + i * i * 3 + step * 5 + microbatch * 11) % VOCABULARY) as i64
        };
        let make = |shift: usize| {
            let ids: Vec<i64> = (first..first + rows)
                .flat_map(|row| (0..LENGTH).map(move |i| token(row, i + shift)))
                .collect();
            Tensor::from_data(TensorData::new(ids, [rows, LENGTH]), &device().autodiff())
        };
        (make(0), make(1))
    }
}

const SEQUENCES: usize = 8;
const LENGTH: usize = 5;

/// Checks that nobody else holds the value, so that an update happens in place; on the CPU, whose
/// buffers can be asked.
fn alone(value: Tensor<1>, path: &str) -> Tensor<1> {
    if device() != Device::flex() {
        return value;
    }
    let value = value.try_into_primitive::<Flex>().expect("the tests run on Flex");
    assert!(value.is_unique() || value.bytes().is_empty(), "`{path}` is still held by a pass");
    Tensor::from_primitive::<Flex>(value)
}

/// Does what the trainer does with gradients: the sums that are left, and the global norm.
fn reduce(scope: &Scope, comm: &MeshComm, gradients: &mut BTreeMap<String, Tensor<1>>) -> f64 {
    let specs = scope.specs();
    let mut squares = 0.0;
    for (path, gradient) in gradients {
        let layout = &specs[path].layout;
        let group = comm.group(axes_to_reduce(layout));
        let data =
            group.all_reduce(gradient.clone().into_data(), ReduceOp::Sum).expect("ranks are there");
        *gradient = Tensor::from_data(data, &gradient.device());
        let mut square = [kernels::sum_of_squares(gradient)];
        comm.group(layout.sharded_axes())
            .all_reduce_scalars(&mut square, ReduceOp::Sum)
            .expect("ranks are there");
        squares += square[0];
    }
    squares.sqrt()
}

fn blocks(scope: &Scope, tensors: BTreeMap<String, Tensor<1>>) -> Blocks {
    let specs = scope.specs();
    let block = |(path, tensor): (String, Tensor<1>)| {
        let spec = &specs[&path];
        let values = tensor.into_data().try_into_vec::<f32>().expect("parameters are f32");
        (path, (spec.layout.block.clone(), spec.shape.clone(), values))
    };
    tensors.into_iter().map(block).collect()
}

fn difference(
    before: &BTreeMap<&'static str, OpCount>,
    after: &BTreeMap<&'static str, OpCount>,
) -> BTreeMap<&'static str, OpCount> {
    let since = |(name, count): (&&'static str, &OpCount)| {
        let before = before.get(name).copied().unwrap_or_default();
        (*name, OpCount { calls: count.calls - before.calls, bytes: count.bytes - before.bytes })
    };
    after.iter().map(since).filter(|(_, count)| count.calls > 0).collect()
}

/// Puts the blocks of all ranks together, and checks that they cover each tensor.
pub(crate) fn assemble<'a>(ranks: impl Iterator<Item = &'a Blocks>) -> BTreeMap<String, Vec<f32>> {
    let mut whole: BTreeMap<String, Vec<f32>> = BTreeMap::new();
    for (path, (block, shape, values)) in ranks.flatten() {
        let target =
            whole.entry(path.clone()).or_insert_with(|| vec![f32::NAN; shape.iter().product()]);
        let row: usize = shape[1..].iter().product();
        assert_eq!(block.shape[1..], shape[1..], "`{path}` is split along dimension 0 only");
        let start = block.offset[0] * row;
        target[start..start + values.len()].copy_from_slice(values);
    }
    assert!(whole.values().flatten().all(|value| !value.is_nan()), "blocks leave no gap");
    whole
}
