//! The plans of the models as a reader sees them, and what they refuse.

use burn::module::Module;
use dream_models::gpt2::Gpt2;
use dream_models::llama3::{self, Flavor, Llama3, Llama3Config};
use dream_trainer::nn::Scope;
use dream_trainer::tensor_parallel::{ResolvedPlan, TensorParallel, TensorParallelOptions};

use crate::harness::device;
use crate::subject::Subject;

fn resolved<S: Subject>(degree: usize, sequence_parallel: bool) -> ResolvedPlan {
    let scope = Scope::root(device(), 0);
    let model = S::build(&scope);
    let options = TensorParallelOptions { sequence_parallel, ..TensorParallelOptions::default() };
    let plan = model.plan(options);
    TensorParallel::planned(scope, degree, options).resolve(&plan).expect("the plan fits")
}

#[test]
fn plans_read_as_tables() {
    insta::assert_snapshot!("llama3_tp2", resolved::<Llama3>(2, true));
    insta::assert_snapshot!("llama3_tp2_without_sequence_parallel", resolved::<Llama3>(2, false));
    insta::assert_snapshot!("gpt2_tp2", resolved::<Gpt2>(2, true));
}

#[test]
fn more_ranks_than_key_value_heads_are_an_error() {
    let scope = Scope::root(device(), 0);
    let model = Llama3::build(&scope);
    let options = TensorParallelOptions::default();
    let tp = TensorParallel::planned(scope, 16, options);
    let error = tp.resolve(&model.plan(options)).expect_err("8 heads for 16 ranks").to_string();
    assert_eq!(
        error,
        "`num_kv_heads` is 8 but must be a multiple of the tensor-parallel degree 16"
    );
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
