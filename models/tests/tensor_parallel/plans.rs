//! The plans of the models as a reader sees them, and what they refuse.

use burn::module::Module;
use dream_models::llama3::{self, Flavor, Llama3Config};
use dream_trainer::nn::Scope;
use dream_trainer::tensor_parallel::{ResolvedPlan, TensorParallel, TensorParallelOptions};

use crate::harness::device;
use crate::subject::{Gpt, Llama, SharedKeys, Subject};

fn resolved<S: Subject>(degree: usize, sequence_parallel: bool) -> ResolvedPlan {
    let scope = Scope::root(device(), 0);
    let model = S::build(&scope);
    let options = TensorParallelOptions { sequence_parallel, ..TensorParallelOptions::default() };
    let plan = S::plan(&model, options);
    TensorParallel::planned(scope, degree, options).resolve(&plan).expect("the plan fits")
}

#[test]
fn plans_read_as_tables() {
    insta::assert_snapshot!("llama3_tp2", resolved::<Llama>(2, true));
    insta::assert_snapshot!("llama3_tp2_without_sequence_parallel", resolved::<Llama>(2, false));
    insta::assert_snapshot!("gpt2_tp2", resolved::<Gpt>(2, true));
    insta::assert_snapshot!("llama3_tp4_with_2_key_value_heads", resolved::<SharedKeys>(4, true));
}

#[test]
fn heads_that_ranks_can_neither_split_nor_share_are_an_error() {
    let rows = [
        (
            (12, 6, 4),
            "`num_kv_heads` is 6 but must be a multiple or a divisor of the tensor-parallel degree 4",
        ),
        ((16, 8, 32), "`num_heads` is 16 but must be a multiple of the tensor-parallel degree 32"),
    ];
    for ((num_heads, num_kv_heads, degree), message) in rows {
        let scope = Scope::root(device(), 0);
        let config = Llama3Config {
            num_heads: Some(num_heads),
            num_kv_heads: Some(num_kv_heads),
            head_dim: Some(2),
            ..Llama3Config::default()
        };
        let shape = config.resolve().expect("a small shape");
        let _model = shape.init(&scope);
        let options = TensorParallelOptions::default();
        let tp = TensorParallel::planned(scope, degree, options);
        let error = tp.resolve(&llama3::plan(&shape, options)).expect_err("it does not fit");
        assert_eq!(error.to_string(), message);
    }
}

#[test]
fn ranks_that_share_heads_hold_them_whole() {
    let resolved = resolved::<SharedKeys>(8, true);
    let keys = resolved.params().find(|param| param.path == "layers.0.attention.wk.weight");
    let keys = keys.expect("a layer of keys");
    assert_eq!(keys.copies, 4);
    // Two heads of four numbers.
    assert_eq!((0..8).map(|rank| keys.local_shape(8, rank)).collect::<Vec<_>>(), [[32, 4]; 8]);
}

#[test]
fn matrices_fall_with_the_number_of_ranks() {
    let scope = Scope::root(device(), 0);
    let config = Llama3Config { flavor: Some(Flavor::Debug), ..Llama3Config::default() };
    let shape = config.resolve().expect("the debug shape");
    let model = shape.init(&scope);
    assert_eq!(model.num_params(), shape.num_params());
    let options = TensorParallelOptions::default();
    let plan = llama3::plan(&shape, options);
    for degree in [1, 2, 4] {
        let resolved = TensorParallel::planned(scope.clone(), degree, options)
            .resolve(&plan)
            .expect("the plan fits");
        let norms = (2 * shape.num_layers + 1) * shape.dim;
        assert_eq!(resolved.local_params(0), (shape.num_params() - norms) / degree + norms);
    }
}
