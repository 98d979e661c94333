//! Two bias-free layers with a `ReLU`: the first split by columns, the second by rows.

use burn::tensor::Tensor;
use dream_models::mlp::{Mlp, MlpConfig, plan};
use dream_trainer::comm::{CommError, ProcessGroup, RankFailure};
use dream_trainer::nn::{Scope, map_values, take_gradients};
use dream_trainer::tensor_parallel::{TensorParallel, TensorParallelOptions};

use crate::ranks::{device, launch, numbers, read};

/// Sizes of input, hidden layer and output.
pub const WIDTHS: [usize; 3] = [8, 16, 4];

const ROWS: usize = 4;

/// What an iteration shows.
#[derive(Debug, Clone, PartialEq)]
pub struct Iteration {
    /// The result, row by row.
    pub output: Vec<f32>,
    /// Sum of the result's products with fixed numbers.
    pub loss: f32,
    /// Gradient of the whole first weight, `[8, 16]`.
    pub fc1_grad: Vec<f32>,
}

/// Runs two iterations of gradient descent on `world_size` ranks.
///
/// # Errors
///
/// The first rank that failed.
pub fn run(world_size: usize) -> Result<Vec<Iteration>, RankFailure<CommError>> {
    Ok(launch(world_size, run_rank)?.remove(0))
}

fn run_rank(group: &ProcessGroup) -> Vec<Iteration> {
    let scope = Scope::root(device(), 1);
    let config = MlpConfig { widths: WIDTHS.to_vec(), ..MlpConfig::default() };
    let model = config.init(&scope).expect("the sizes are positive");
    let tp = TensorParallel::new(scope, group.clone(), TensorParallelOptions::default());
    let mut model = tp.parallelize(model, &plan(2)).expect("the number of ranks was checked");
    let x = numbers::<2>(1, [ROWS, WIDTHS[0]]);
    let mut iterations = Vec::new();
    for _ in 0..2 {
        let output = model.forward(x.clone());
        let loss = (output.clone() * numbers(2, [ROWS, WIDTHS[2]])).sum();
        let value = loss.clone().into_scalar::<f32>();
        let mut fc1_grad = Vec::new();
        model = descend(model, &loss, |gradient| fc1_grad = read(whole(gradient, group)));
        iterations.push(Iteration { output: read(output), loss: value, fc1_grad });
    }
    iterations
}

/// Puts the columns of all ranks side by side.
fn whole(gradient: Tensor<1>, group: &ProcessGroup) -> Tensor<2> {
    let local = gradient.reshape([WIDTHS[0], WIDTHS[1] / group.size()]);
    let gathered = group.all_gather(local.into_data(), 1).expect("the ranks are alive");
    Tensor::from_data(gathered, &device().inner())
}

fn descend(model: Mlp, loss: &Tensor<1>, first: impl FnOnce(Tensor<1>)) -> Mlp {
    let mut gradients = std::collections::BTreeMap::new();
    take_gradients(&model, &mut loss.backward(), |path, gradient| {
        gradients.insert(path.to_owned(), gradient);
    });
    first(gradients["layers.0.weight"].clone());
    let step = |value: Tensor<1>, gradient: Tensor<1>| value - gradient * 0.1;
    let updated = map_values(model, |entry, value| {
        let gradient = gradients.remove(&entry.path);
        Ok::<_, std::convert::Infallible>(
            gradient.map_or_else(|| value.clone(), |gradient| step(value.clone(), gradient)),
        )
    });
    match updated {
        Ok(model) => model,
        Err(never) => match never {},
    }
}
