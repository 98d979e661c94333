//! A deep GELU network whose layers are all split by columns, as in lecture 8 of Stanford's CS336,
//! with the backward pass.
//!
//! Forward, each layer multiplies by its columns and gathers the result. Backward, with `Y =
//! gelu(Z)` and `Z = X W` of one layer: `dZ_r = slice(dY) gelu'(Z_r)` and `dW_r = X^T dZ_r` stay on
//! the rank, and `dX = sum_r dZ_r W_r^T` is an all-reduce, which the first layer does not need. The
//! lecture gathers after the activation and this model before it: the same numbers, since GELU acts
//! on each element alone.

use burn::tensor::Tensor;
use dream_models::mlp::{MlpConfig, column_plan};
use dream_trainer::comm::{CommError, ProcessGroup, RankFailure};
use dream_trainer::nn::{Scope, take_gradients};
use dream_trainer::tensor_parallel::{TensorParallel, TensorParallelOptions};

use crate::ranks::{Summary, device, launch, numbers, read};

/// Layers of the network.
pub const LAYERS: usize = 4;

/// What one forward and backward pass gives.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The activations of the last layer.
    pub activations: Summary,
    /// Mean of the squared activations.
    pub loss: f32,
    /// The gradient of each whole weight, row by row.
    pub gradients: Vec<Vec<f32>>,
    /// All-gathers of the forward pass and all-reduces of the backward pass.
    pub calls: [u64; 2],
}

/// Runs `rows` rows of `width` numbers through the network on `world_size` ranks.
///
/// # Errors
///
/// The first rank that failed.
pub fn run(
    world_size: usize,
    rows: usize,
    width: usize,
) -> Result<Outcome, RankFailure<CommError>> {
    Ok(launch(world_size, |group| run_rank(rows, width, group))?.remove(0))
}

fn run_rank(rows: usize, width: usize, group: &ProcessGroup) -> Outcome {
    let scope = Scope::root(device(), 0);
    let model = MlpConfig::gelu(width, LAYERS).init(&scope).expect("the sizes are positive");
    let tp = TensorParallel::new(scope, group.clone(), TensorParallelOptions::default());
    let model =
        tp.parallelize(model, &column_plan(LAYERS)).expect("the number of ranks was checked");
    let y = model.forward(numbers(5, [rows, width]));
    let loss = (y.clone() * y.clone()).mean();
    let value = loss.clone().into_scalar::<f32>();
    let mut local = Vec::new();
    take_gradients(&model, &mut loss.backward(), |_, gradient| local.push(gradient));
    let counters = group.counters();
    let calls = [counters.of("all_gather").calls, counters.of("all_reduce").calls];
    let gradients = local.into_iter().map(|gradient| whole(gradient, width, group)).collect();
    Outcome { activations: Summary::new(&y), loss: value, gradients, calls }
}

fn whole(gradient: Tensor<1>, width: usize, group: &ProcessGroup) -> Vec<f32> {
    let local = gradient.reshape([width, width / group.size()]);
    let gathered = group.all_gather(local.into_data(), 1).expect("the ranks are alive");
    read(Tensor::<2>::from_data(gathered, &device().inner()))
}
