//! The models under test behind one type, and five steps of training on any mesh of `dp` and `tp`.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use dream_models::gpt2::{self, Gpt2, Gpt2Config};
use dream_models::llama3::{self, Llama3, Llama3Config, TokenLayout};
use dream_trainer::comm::{MeshComm, ProcessGroup, RankContext, ReduceOp, launch_threads};
use dream_trainer::kernels::IGNORE_INDEX;
use dream_trainer::mesh::{Axis, AxisSet, Degree, Degrees, DeviceMesh, MeshOrder};
use dream_trainer::nn::{Scope, map_values, parameters};
use dream_trainer::tensor_parallel::{Plan, TensorParallel, TensorParallelOptions};

use crate::harness::{Piece, device, pieces, read};

pub(crate) const BATCH: usize = 4;
pub(crate) const SEQUENCE: usize = 16;
pub(crate) const STEPS: usize = 5;
/// Divides by no number of ranks.
pub(crate) const VOCABULARY: usize = 61;

/// A model and how it is built.
pub(crate) trait Subject {
    type Model: Module;
    const NAME: &'static str;
    /// Learning rate that moves the loss without leaving the region where differences stay small.
    const RATE: f64;
    fn build(scope: &Scope) -> Self::Model;
    fn plan(model: &Self::Model, options: TensorParallelOptions) -> Plan;
    /// The sum over the labels that count.
    fn loss(model: &Self::Model, tokens: Tensor<2, Int>, labels: Tensor<2, Int>) -> Tensor<1>;
}

/// A Llama with eight key-value heads.
pub(crate) struct Llama;

/// A Llama with two key-value heads, which more ranks share, and biases.
pub(crate) struct SharedKeys;

/// A GPT-2.
pub(crate) struct Gpt;

pub(crate) fn llama3_config() -> Llama3Config {
    Llama3Config {
        dim: Some(32),
        num_layers: Some(2),
        num_heads: Some(16),
        num_kv_heads: Some(8),
        ffn_dim: Some(48),
        vocab_size: Some(VOCABULARY),
        max_seq_len: Some(64),
        ..Llama3Config::default()
    }
}

impl Subject for Llama {
    type Model = Llama3;
    const NAME: &'static str = "llama3";
    const RATE: f64 = 0.5;

    fn build(scope: &Scope) -> Llama3 {
        llama3_config().resolve().expect("a small shape").init(scope)
    }

    fn plan(model: &Llama3, options: TensorParallelOptions) -> Plan {
        llama3::plan(model.shape(), options)
    }

    fn loss(model: &Llama3, tokens: Tensor<2, Int>, labels: Tensor<2, Int>) -> Tensor<1> {
        let hidden = model.forward(tokens, &TokenLayout::default());
        model.head_weight().expect("a whole model").cross_entropy(hidden, labels)
    }
}

impl Subject for SharedKeys {
    type Model = Llama3;
    const NAME: &'static str = "llama3 with shared key-value heads";
    const RATE: f64 = Llama::RATE;

    fn build(scope: &Scope) -> Llama3 {
        let config = Llama3Config {
            num_heads: Some(8),
            num_kv_heads: Some(2),
            attention_bias: Some(true),
            mlp_bias: Some(true),
            ..llama3_config()
        };
        config.resolve().expect("a small shape").init(scope)
    }

    fn plan(model: &Llama3, options: TensorParallelOptions) -> Plan {
        Llama::plan(model, options)
    }

    fn loss(model: &Llama3, tokens: Tensor<2, Int>, labels: Tensor<2, Int>) -> Tensor<1> {
        Llama::loss(model, tokens, labels)
    }
}

impl Subject for Gpt {
    type Model = Gpt2;
    const NAME: &'static str = "gpt2";
    const RATE: f64 = 0.1;

    fn build(scope: &Scope) -> Gpt2 {
        let config = Gpt2Config {
            vocab_size: VOCABULARY,
            max_seq_len: 32,
            dim: 32,
            num_layers: 2,
            num_heads: 8,
            bias: true,
            ..Gpt2Config::default()
        };
        config.resolve().expect("a small shape").init(scope)
    }

    fn plan(model: &Gpt2, options: TensorParallelOptions) -> Plan {
        gpt2::plan(model.shape(), options)
    }

    fn loss(model: &Gpt2, tokens: Tensor<2, Int>, labels: Tensor<2, Int>) -> Tensor<1> {
        let hidden = model.forward(tokens);
        model.head_weight().expect("a whole model").cross_entropy(hidden, labels)
    }
}

/// Where a run happens and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting {
    pub(crate) dp: usize,
    pub(crate) tp: usize,
    pub(crate) options: TensorParallelOptions,
}

impl Setting {
    pub(crate) fn dense() -> Self {
        Self { dp: 1, tp: 1, options: TensorParallelOptions::default() }
    }

    fn mesh(self) -> DeviceMesh {
        let degrees = Degrees {
            dp_replicate: Degree::from(self.dp),
            tp: self.tp.into(),
            ..Degrees::default()
        };
        degrees.resolve(self.dp * self.tp, MeshOrder::default()).expect("a mesh of two axes")
    }
}

/// Rows `rows` of the global batch: tokens and the following tokens as labels, of which some do not
/// count.
pub(crate) fn batch(rows: std::ops::Range<usize>, device: &Device) -> [Tensor<2, Int>; 2] {
    let token = |row: usize, i: usize| ((row * 31 + i * i * 7 + 5 * i) % VOCABULARY) as i32;
    let label = |row: usize, i: usize| {
        if (row + i).is_multiple_of(5) { IGNORE_INDEX as i32 } else { token(row, i + 1) }
    };
    let tensor = |value: &dyn Fn(usize, usize) -> i32| {
        let values: Vec<i32> = rows
            .clone()
            .flat_map(|row| (0..SEQUENCE).map(move |i| (row, i)))
            .map(|(row, i)| value(row, i))
            .collect();
        Tensor::from_data(TensorData::new(values, [rows.len(), SEQUENCE]), device)
    };
    [tensor(&token), tensor(&label)]
}

pub(crate) fn num_targets() -> f64 {
    let [_, labels] = batch(0..BATCH, &device().inner());
    read_ids(labels).iter().filter(|label| **label != IGNORE_INDEX).count() as f64
}

fn read_ids(ids: Tensor<2, Int>) -> Vec<i64> {
    ids.into_data().iter::<i64>().collect()
}

/// What one rank of a run saw.
pub(crate) struct Run {
    pub(crate) losses: Vec<f64>,
    /// Gradients of the first step, before data parallelism.
    pub(crate) first: Vec<Piece>,
    pub(crate) comm: MeshComm,
}

/// Trains a subject with plain gradient descent on all ranks of a setting.
pub(crate) fn train<S: Subject>(setting: Setting, steps: usize) -> Vec<Run> {
    on_ranks(setting, |comm| train_rank::<S>(setting, steps, comm))
}

/// Runs something on every rank of a setting.
pub(crate) fn on_ranks<R: Send>(setting: Setting, run: impl Fn(MeshComm) -> R + Sync) -> Vec<R> {
    let body = |ctx: RankContext| {
        let comm = MeshComm::new(ctx.fabric.clone(), setting.mesh(), ctx.rank())?;
        Ok::<_, dream_trainer::comm::CommError>(run(comm))
    };
    let timeouts = dream_trainer::comm::CommTimeouts::uniform(std::time::Duration::from_mins(2));
    match launch_threads(setting.dp * setting.tp, timeouts, body) {
        Ok(runs) => runs,
        Err(failure) => panic!("{setting:?}: {failure}"),
    }
}

fn train_rank<S: Subject>(setting: Setting, steps: usize, comm: MeshComm) -> Run {
    let scope = Scope::root(device(), 7);
    let model = S::build(&scope);
    let plan = S::plan(&model, setting.options);
    let tensor_parallel = TensorParallel::new(scope.clone(), comm.group(Axis::Tp), setting.options);
    let mut model = tensor_parallel.parallelize(model, &plan).expect("the plan fits");
    let dp = comm.group(AxisSet::LOSS);
    let rows = BATCH / setting.dp;
    let [tokens, labels] = batch(dp.rank() * rows..(dp.rank() + 1) * rows, &device().inner());
    let (targets, mut losses, mut first) = (num_targets(), Vec::new(), None);
    for _ in 0..steps {
        let loss = S::loss(&model, tokens.clone(), labels.clone()) * (1.0 / targets);
        let mut value = [read(loss.clone())[0]];
        dp.all_reduce_scalars(&mut value, ReduceOp::Sum).expect("the ranks are alive");
        losses.push(value[0]);
        let local = pieces(&model, &scope, loss.backward());
        let tensor = |piece: &Piece| {
            let values: Vec<f32> = piece.gradient.iter().map(|value| *value as f32).collect();
            Tensor::<1>::from_data(
                TensorData::new(values, [piece.gradient.len()]),
                &device().inner(),
            )
        };
        let mut gradients = local.iter().map(|piece| (piece.path.clone(), tensor(piece))).collect();
        first.get_or_insert(local);
        reduce::<S>(&model, &scope, &comm, &mut gradients);
        model = map_values(model, |entry, value| {
            Ok::<_, std::convert::Infallible>(
                value - gradients.remove(&entry.path).expect("a gradient") * S::RATE,
            )
        })
        .expect("it cannot fail");
    }
    Run { losses, first: first.unwrap_or_default(), comm }
}

/// Sums gradients over the data-parallel ranks, and over those on which a layout says they are
/// terms.
fn reduce<S: Subject>(
    model: &S::Model,
    scope: &Scope,
    comm: &MeshComm,
    gradients: &mut BTreeMap<String, Tensor<1>>,
) {
    let sum = |gradient: Tensor<1>, group: &ProcessGroup| {
        let device = gradient.device();
        let data =
            group.all_reduce(gradient.into_data(), ReduceOp::Sum).expect("the ranks are alive");
        Tensor::from_data(data, &device)
    };
    for entry in parameters(model) {
        let layout = scope.spec(entry.id).expect("made under the scope").layout;
        let mut gradient = gradients.remove(&entry.path).expect("a gradient");
        for axes in [layout.partial_gradient, AxisSet::LOSS] {
            if comm.mesh().size(axes) > 1 {
                gradient = sum(gradient, &comm.group(axes));
            }
        }
        if let Some(copies) = layout.copies {
            gradient = sum(gradient, &comm.neighbors(copies).expect("the ranks are alive"));
        }
        gradients.insert(entry.path, gradient);
    }
}
