//! Plans that do not fit, said before anything starts.

use burn::module::Module;
use dream_trainer::mesh::Placement;
use dream_trainer::nn::{
    Boundary, Embedding, EmbeddingConfig, Linear, LinearConfig, RmsNorm, RmsNormConfig, Scope,
};
use dream_trainer::tensor_parallel::{
    ColwiseParallel, Plan, PrepareModuleInput, RowwiseParallel, SEQUENCE, SequenceParallel,
    TensorParallel, TensorParallelOptions, VocabParallel,
};

use crate::harness::device;

#[derive(Module, Debug)]
struct Net {
    table: Embedding,
    norm: RmsNorm,
    up: Linear,
    down: Linear,
    #[module(skip)]
    edge: Boundary,
}

fn net(scope: &Scope) -> Net {
    let layer = scope.child("layers").child(0);
    Net {
        table: EmbeddingConfig::new(10, 6).init(&scope.child("table")),
        norm: RmsNormConfig::new(6).init(&layer.child("norm")),
        up: LinearConfig::new(6, 12).with_bias(true).init(&layer.child("up")),
        down: LinearConfig::new(12, 6).with_bias(true).init(&layer.child("down")),
        edge: Boundary::new(&layer),
    }
}

fn complain(degree: usize, plan: &Plan) -> String {
    let scope = Scope::root(device(), 0);
    let model = net(&scope);
    let tp = TensorParallel::planned(scope, degree, TensorParallelOptions::default());
    tp.parallelize(model, plan).expect_err("the plan does not fit").to_string()
}

#[test]
fn errors_name_the_layer_and_the_numbers() {
    let (column, row) = (ColwiseParallel::default(), RowwiseParallel::default());
    let rows: [(usize, Plan, &str); 14] = [
        (
            2,
            Plan::new().style("layers.*.upp", column),
            "no layer matches the path `layers.*.upp`; the nearest is `layers.0.up`",
        ),
        (
            2,
            Plan::new().flow(["tabel", "layers.*.norm"]),
            "no layer matches the path `tabel`; the nearest is `table`",
        ),
        (
            5,
            Plan::new().style("layers.*.up", column),
            "`dimension 1 of layers.0.up.weight` is 12 but must be a multiple of the tensor-parallel degree 5",
        ),
        (
            4,
            Plan::new().style("layers.*.up", column.in_units("num_kv_heads", 2)),
            "`num_kv_heads` is 2 but must be a multiple of the tensor-parallel degree 4",
        ),
        (
            8,
            Plan::new().style("layers.*.up", column.in_shared_units("num_kv_heads", 6)),
            "`num_kv_heads` is 6 but must be a multiple or a divisor of the tensor-parallel degree 8",
        ),
        (
            4,
            Plan::new().style(
                "layers.*.up",
                column.in_shared_units("num_kv_heads", 2).with_output(Placement::Replicate),
            ),
            "`ColwiseParallel` of `layers.0.up` has the output layout `R` but can have S(2)",
        ),
        (
            2,
            Plan::new().style("layers.*.up", column.in_units("num_heads", 5)),
            "dimension 1 of `layers.0.up.weight` is 12, which does not consist of `num_heads` = 5 equal units",
        ),
        (
            2,
            Plan::new().style("layers.*.up", column).style("layers.0.*", row),
            "layer `layers.0.up` gets `ColwiseParallel` and `RowwiseParallel`, but a layer takes one style",
        ),
        (
            2,
            Plan::new().style("layers.*.norm", column),
            "layer `layers.0.norm` is a norm, which cannot take `ColwiseParallel`",
        ),
        (
            2,
            Plan::new().style(
                "layers.*.up",
                PrepareModuleInput { input: SEQUENCE, desired: Placement::Replicate },
            ),
            "layer `layers.0.up` is a linear, which cannot take `PrepareModuleInput`",
        ),
        (
            2,
            Plan::new().style("layers.*.up", VocabParallel::default()),
            "layer `layers.0.up` is a linear, which cannot take `VocabParallel`",
        ),
        (
            2,
            Plan::new().style("layers.*.up", column.with_output(Placement::Shard(0))),
            "`ColwiseParallel` of `layers.0.up` has the output layout `S(0)` but can have R, S(1) or S(2)",
        ),
        (
            2,
            Plan::new()
                .style("layers.*.up", column.with_output(Placement::Replicate))
                .style("layers.*.down", row)
                .flow(["layers.*.up", "layers.*.down"]),
            "`layers.0.up` gives `R` but `layers.0.down`, which follows it, takes `S(2)`",
        ),
        (
            2,
            Plan::new().style("layers.*.norm", SequenceParallel::default()),
            "layer `layers.0.down` has weights but no style, while the plan splits the sequence: it would miss the gradients of the other ranks' tokens",
        ),
    ];
    for (degree, plan, message) in rows {
        assert_eq!(complain(degree, &plan), message);
    }
}

#[test]
fn sequences_must_split_evenly_where_they_are_split() {
    let tp = |sequence_parallel| {
        let options =
            TensorParallelOptions { sequence_parallel, ..TensorParallelOptions::default() };
        TensorParallel::planned(Scope::root(device(), 0), 4, options).check_sequence(10)
    };
    let error = tp(true).expect_err("10 is no multiple of 4").to_string();
    assert_eq!(
        error,
        "`sequence_length` is 10 but must be a multiple of the tensor-parallel degree 4 for sequence parallelism"
    );
    assert_eq!(tp(false), Ok(()));
}

#[test]
fn a_plan_shows_what_every_rank_holds() {
    let scope = Scope::root(device(), 0);
    let model = net(&scope);
    let plan = Plan::new()
        .style("table", VocabParallel::default().with_output(SEQUENCE))
        .style("layers.*.norm", SequenceParallel::default())
        .style("layers.*", PrepareModuleInput { input: SEQUENCE, desired: Placement::Replicate })
        .style("layers.*.up", ColwiseParallel::default())
        .style("layers.*.down", RowwiseParallel::default().with_output(SEQUENCE))
        .flow(["table", "layers.*.norm", "layers.*", "layers.*.up", "layers.*.down"]);
    let tp = TensorParallel::planned(scope, 3, TensorParallelOptions::default());
    tp.parallelize(model, &plan).expect("the plan fits");
    insta::assert_snapshot!(tp.resolved()[0], @r"
    layer          style               in    out   forward                              backward        parameters
    table          VocabParallel       ids   S(1)  reduce-scatter                       all-gather      weight [10, 6] S(0) -> [4, 6] to [2, 6]
    table            as head, if tied  R     S(2)  3 all-reduces of a number per token  all-reduce
    layers.*.norm  SequenceParallel    S(1)  S(1)  -                                    -               weight [6] R, gradient P(sum)
    layers.*       PrepareModuleInput  S(1)  R     all-gather                           reduce-scatter
    layers.*.up    ColwiseParallel     R     S(2)  -                                    -               weight [6, 12] S(1) -> [6, 4]  bias [12] S(0) -> [4]
    layers.*.down  RowwiseParallel     S(2)  S(1)  reduce-scatter                       all-gather      weight [12, 6] S(0) -> [4, 6]  bias [6] R, gradient P(sum)
    gradients P(sum): one all-reduce each per step
    parameters per rank: 76 to 88
    ");
}
