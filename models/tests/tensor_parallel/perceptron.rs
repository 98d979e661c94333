//! The MLP under both its plans.

use burn::module::Module;
use dream_models::mlp::{Mlp, MlpConfig, column_plan, plan};
use dream_trainer::comm::ProcessGroup;
use dream_trainer::nn::Scope;
use dream_trainer::tensor_parallel::{Plan, TensorParallel, TensorParallelOptions};

use crate::harness::{
    Piece, assemble, assert_close, assert_gradients, device, pieces, ranks, read, tensor,
};
use crate::tolerance::MODEL;

const LAYERS: usize = 4;
const WIDTH: usize = 32;
const ROWS: usize = 8;

struct Outcome {
    output: Vec<f64>,
    input: Vec<f64>,
    gradients: Vec<Piece>,
    calls: [u64; 2],
    bytes: u64,
}

fn run(plan: Option<&Plan>, input_learns: bool, group: &ProcessGroup) -> Outcome {
    let scope = Scope::root(device(), 11);
    let mut model: Mlp = MlpConfig::gelu(WIDTH, LAYERS).init(&scope).expect("a small shape");
    if let Some(plan) = plan {
        let tp =
            TensorParallel::new(scope.clone(), group.clone(), TensorParallelOptions::default());
        model = tp.parallelize(model, plan).expect("the plan fits");
    }
    let x = tensor::<2>(3, [ROWS, WIDTH]);
    let x = if input_learns { x.detach().require_grad() } else { x };
    let y = model.forward(x.clone());
    let mut grads = (y.clone() * y.clone()).mean().backward();
    let input =
        if input_learns { read(x.grad_remove(&mut grads).expect("a leaf")) } else { Vec::new() };
    let used = group.counters();
    Outcome {
        output: read::<2>(y),
        input,
        gradients: pieces(&model, &scope, grads),
        calls: [used.of("all_gather").calls, used.of("all_reduce").calls],
        bytes: used.of("all_gather").bytes,
    }
}

fn check(plan: &Plan, n: usize, input_learns: bool, calls: [u64; 2]) {
    let what = format!("{n} ranks, input learns: {input_learns}");
    let dense = ranks(1, |group| run(None, input_learns, group)).remove(0);
    let mut gradients = Vec::new();
    for outcome in ranks(n, |group| run(Some(plan), input_learns, group)) {
        assert_close(&format!("{what}: output"), &outcome.output, &dense.output, MODEL);
        assert_close(
            &format!("{what}: gradient of the input"),
            &outcome.input,
            &dense.input,
            MODEL,
        );
        assert_eq!(outcome.calls, calls, "{what}: all-gathers and all-reduces");
        let gathered = calls[0] * (ROWS * WIDTH * 4) as u64;
        assert_eq!(outcome.bytes, gathered, "{what}: bytes gathered");
        gradients.push(outcome.gradients);
    }
    assert_gradients(&what, &assemble(gradients), &assemble(vec![dense.gradients]), MODEL);
}

#[test]
fn column_layers_gather_forward_and_reduce_backward_except_below_the_first() {
    let layers = LAYERS as u64;
    for n in [2, 4, 8] {
        check(&column_plan(LAYERS), n, false, [layers, layers - 1]);
        check(&column_plan(LAYERS), n, true, [layers, layers]);
    }
}

#[test]
fn paired_layers_reduce_once_each_way() {
    for n in [2, 4, 8] {
        check(&plan(LAYERS), n, false, [0, 3]);
        check(&plan(LAYERS), n, true, [0, 4]);
    }
}

#[test]
fn a_layer_without_a_partner_gathers_its_output() {
    let scope = Scope::root(device(), 11);
    let model = MlpConfig::gelu(WIDTH, 3).init(&scope).expect("a small shape");
    assert_eq!(model.num_params(), 3 * WIDTH * WIDTH);
    let tp = TensorParallel::planned(scope, 2, TensorParallelOptions::default());
    tp.parallelize(model, &plan(3)).expect("the plan fits");
    let resolved = tp.resolved().remove(0);
    assert_eq!(resolved.layers[2].style.output().to_string(), "R");
}
