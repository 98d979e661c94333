//! Llama 3 in shards, and with activations computed again, equals Llama 3 on one rank.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../tests/support/tolerance.rs"]
mod tolerance;

use std::collections::BTreeMap;
use std::time::Duration;
use tolerance::{FIRST_STEP, SHARDED_GRADIENT};

use burn::tensor::{Device, Int, Tensor, TensorData};
use dream_models::llama3::{Flavor, Llama3, Llama3Config, TokenLayout, plan};
use dream_trainer::comm::{CommTimeouts, MeshComm, RankContext, ReduceOp, launch_threads};
use dream_trainer::fsdp::{
    ActivationCheckpointing, FsdpError, FullyShard, FullyShardConfig, axes_to_reduce,
};
use dream_trainer::mesh::{Axis, AxisSet, Block, Degree, Degrees, MeshOrder};
use dream_trainer::nn::{self, Scope};
use dream_trainer::tensor_parallel::{TensorParallel, TensorParallelOptions};

/// Loss, and gradients by path: of one rank the block it holds, of all ranks together the whole.
type Gradients<T> = (f64, BTreeMap<String, T>);

/// A block of a parameter of a shape.
type Held = (Vec<usize>, Block, Vec<f32>);

const VOCABULARY: usize = 60;

#[derive(Debug, Clone, Copy)]
struct Case {
    shards: usize,
    tp: usize,
    tied: bool,
    mode: ActivationCheckpointing,
}

const SINGLE: Case = Case { shards: 1, tp: 1, tied: false, mode: ActivationCheckpointing::None };

fn sharded(mut model: Llama3, fsdp: &FullyShard) -> Result<Llama3, FsdpError> {
    model.tok_embeddings = model.tok_embeddings.map(|unit| fsdp.shard(unit)).transpose()?;
    model.layers = fsdp.shard_each(model.layers)?;
    model.output = model.output.map(|unit| fsdp.shard(unit)).transpose()?;
    Ok(fsdp.shard_root(model))
}

fn mesh_comm(rank: &RankContext, shards: usize, tp: usize) -> MeshComm {
    let (dp_shard, tp) = (Degree::Fixed(shards), Degree::Fixed(tp));
    let degrees = Degrees { dp_shard, tp, ..Degrees::default() };
    let mesh = degrees.resolve(rank.world.world_size, MeshOrder::default()).unwrap();
    MeshComm::new(rank.fabric.clone(), mesh, rank.rank()).unwrap()
}

fn build(case: Case, comm: &MeshComm, scope: &Scope) -> Result<Llama3, FsdpError> {
    let config = Llama3Config {
        dim: Some(32),
        num_layers: Some(3),
        num_heads: Some(4),
        num_kv_heads: Some(2),
        ffn_dim: Some(50),
        vocab_size: Some(VOCABULARY),
        tied_embeddings: Some(case.tied),
        ..Llama3Config::default()
    };
    let model = config.resolve().unwrap().init(scope);
    let options = TensorParallelOptions::default();
    let tp = TensorParallel::new(scope.clone(), comm.group(Axis::Tp), options);
    let mut model = match case.tp {
        1 => model,
        _ => tp.parallelize(model.clone(), &plan(model.shape(), options)).unwrap(),
    };
    model.layers = case.mode.apply(model.layers)?;
    sharded(model, &FullyShard::new(&FullyShardConfig::default(), comm, scope)?)
}

fn gradients(case: Case, rank: &RankContext) -> Result<Gradients<Held>, FsdpError> {
    let comm = mesh_comm(rank, case.shards, case.tp);
    let scope = Scope::root(Device::flex().autodiff(), 11);
    let model = build(case, &comm, &scope)?;
    let fsdp = comm.group(AxisSet::FSDP);
    let rows = 4 / case.shards;
    let tokens = |shift: usize| {
        let ids = (0..rows * 8).map(|i| {
            let (row, at) = (fsdp.rank() * rows + i / 8, i % 8 + shift);
            ((row * 17 + at * at * 5) % VOCABULARY) as i64
        });
        let data = TensorData::new(ids.collect::<Vec<_>>(), [rows, 8]);
        Tensor::<2, Int>::from_data(data, &Device::flex().autodiff())
    };
    let hidden = model.forward(tokens(0), &TokenLayout::default());
    let sum = model.head_weight().unwrap().cross_entropy(hidden, tokens(1));
    let mut loss = [sum.clone().into_scalar::<f64>() / 32.0];
    fsdp.all_reduce_scalars(&mut loss, ReduceOp::Sum).unwrap();
    let mut tape = (sum * (1.0 / 32.0)).backward();
    let mut local = BTreeMap::new();
    nn::take_gradients(&model, &mut tape, |path, gradient| {
        local.insert(path.to_owned(), gradient.into_data());
    });
    let specs = scope.specs();
    let held = local.into_iter().map(|(path, gradient)| {
        let spec = &specs[&path];
        let group = comm.group(axes_to_reduce(&spec.layout));
        let values = group.all_reduce(gradient, ReduceOp::Sum).unwrap().try_into_vec().unwrap();
        (path, (spec.shape.clone(), spec.layout.block.clone(), values))
    });
    Ok((loss[0], held.collect()))
}

fn outcome(case: Case) -> Gradients<Vec<f32>> {
    let timeouts = CommTimeouts::uniform(Duration::from_mins(1));
    let ranks =
        launch_threads(case.shards * case.tp, timeouts, |rank| gradients(case, &rank)).unwrap();
    let loss = ranks[0].0;
    let mut whole: BTreeMap<String, Vec<f32>> = BTreeMap::new();
    for (path, (shape, block, values)) in ranks.into_iter().flat_map(|(_, held)| held) {
        let target = whole.entry(path).or_insert_with(|| vec![0.0; shape.iter().product()]);
        let (columns, first) = (shape.get(1).unwrap_or(&1), block.offset.get(1).unwrap_or(&0));
        let width = *block.shape.get(1).unwrap_or(&1);
        for (row, values) in values.chunks(width.max(1)).enumerate() {
            let start = (block.offset[0] + row) * columns + first;
            target[start..start + width].copy_from_slice(values);
        }
    }
    (loss, whole)
}

fn check(case: Case) {
    let (loss, expected) = outcome(Case { tied: case.tied, ..SINGLE });
    let (sharded_loss, sharded) = outcome(case);
    let error = (sharded_loss - loss).abs() / loss;
    assert!(error <= FIRST_STEP, "loss {sharded_loss} is not {loss} with {case:?}");
    assert!(sharded.keys().eq(expected.keys()));
    for (path, expected) in &expected {
        let largest = expected.iter().fold(0.0_f32, |max, value| max.max(value.abs()));
        for (a, b) in sharded[path].iter().zip(expected) {
            assert!(
                f64::from((a - b).abs()) <= SHARDED_GRADIENT * f64::from(largest),
                "`{path}`: {a} is not {b} with {case:?}"
            );
        }
    }
}

#[test]
fn shards_equal_one_rank() {
    for tied in [false, true] {
        check(Case { shards: 2, tied, ..SINGLE });
        check(Case { shards: 4, tied, ..SINGLE });
        check(Case { shards: 4, tied, mode: ActivationCheckpointing::Full, ..SINGLE });
    }
}

#[test]
fn shards_of_split_matrices_equal_one_rank() {
    for mode in [ActivationCheckpointing::None, ActivationCheckpointing::Full] {
        for tied in [false, true] {
            check(Case { shards: 2, tp: 2, tied, mode });
        }
        check(Case { shards: 4, tp: 2, tied: false, mode });
    }
}

#[test]
fn computing_activations_again_changes_no_bit() {
    let kept = outcome(SINGLE);
    for mode in [ActivationCheckpointing::Full, ActivationCheckpointing::EveryNth(2)] {
        assert!(outcome(Case { mode, ..SINGLE }) == kept, "{mode:?}");
    }
    let kept = outcome(Case { shards: 2, ..SINGLE });
    assert!(outcome(Case { shards: 2, mode: ActivationCheckpointing::Full, ..SINGLE }) == kept);
}

#[test]
fn a_large_model_is_sharded_without_a_value() {
    let elements = |rank: RankContext| {
        let comm = mesh_comm(&rank, 8, 1);
        let scope = Scope::root(Device::flex().autodiff(), 11);
        let config = Llama3Config { flavor: Some(Flavor::B70), ..Llama3Config::default() };
        let model = config.resolve().unwrap().init(&scope);
        let fsdp = FullyShard::new(&FullyShardConfig::default(), &comm, &scope)?;
        let entries = nn::parameters(&sharded(model, &fsdp)?);
        Ok::<_, FsdpError>(entries.iter().map(nn::ParameterEntry::num_elements).sum::<usize>())
    };
    // Making the values would need 282 GB.
    let held = launch_threads(8, CommTimeouts::uniform(Duration::from_mins(1)), elements).unwrap();
    // All but the final norm, which every rank holds.
    let norm = 8192;
    assert_eq!(held.iter().sum::<usize>(), 70_553_706_496 + 7 * norm);
    assert!(held.iter().all(|held| *held == (70_553_706_496 - norm) / 8 + norm));
}
