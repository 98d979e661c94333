//! How the GPT-2-style transformer lies over tensor-parallel ranks.

use dream_trainer::mesh::Placement;
use dream_trainer::tensor_parallel::{
    ColwiseParallel, Plan, PrepareModuleInput, RowwiseParallel, SEQUENCE, SequenceParallel,
    TensorParallelOptions, VocabParallel,
};

use super::Gpt2Shape;

/// Returns the plan of a model of this shape.
///
/// It is that of [`llama3`](crate::llama3::plan) with the positions looked up where their tokens
/// lie. The tied table is split once and serves as embedding and as head.
///
/// # Communication
///
/// Per block, forward: two all-gathers and two reduce-scatters of `[b, s, h]`, or two all-reduces
/// without sequence parallelism; backward the same.
pub fn plan(shape: &Gpt2Shape, options: TensorParallelOptions) -> Plan {
    let between = if options.sequence_parallel { SEQUENCE } else { Placement::Replicate };
    let enter = PrepareModuleInput { input: between, desired: Placement::Replicate };
    let heads = ColwiseParallel::default().in_units("num_heads", shape.num_heads);
    let leave = RowwiseParallel::default().with_output(between);
    let vocabulary = VocabParallel::default()
        .with_output(between)
        .with_head_input(between)
        .with_loss_parallel(options.loss_parallel);
    let mut plan = Plan::new()
        .style("tok_embeddings", vocabulary)
        .style("layers.*.attention", enter)
        .style("layers.*.attention.wq", heads)
        .style("layers.*.attention.wk", heads)
        .style("layers.*.attention.wv", heads)
        .style("layers.*.attention.wo", leave.in_units("num_heads", shape.num_heads))
        .style("layers.*.feed_forward", enter)
        .style("layers.*.feed_forward.w1", ColwiseParallel::default())
        .style("layers.*.feed_forward.w2", leave);
    if options.sequence_parallel {
        plan = plan
            .style("pos_embeddings", SequenceParallel::default().with_input(Placement::Replicate));
        let on_tokens = [
            "layers.*.attention_norm",
            "layers.*.attention_dropout",
            "layers.*.ffn_norm",
            "layers.*.ffn_dropout",
            "dropout",
            "norm",
        ];
        for layer in on_tokens {
            plan = plan.style(layer, SequenceParallel::default());
        }
    }
    plan.flow([
        "tok_embeddings",
        "layers.*.attention_norm",
        "layers.*.attention",
        "layers.*.attention.wq",
        "layers.*.attention.wo",
    ])
    .flow(["pos_embeddings", "layers.*.attention_norm"])
    .flow(["layers.*.attention", "layers.*.attention.wk"])
    .flow(["layers.*.attention", "layers.*.attention.wv"])
    .flow(["layers.*.attention.wo", "layers.*.ffn_norm", "layers.*.feed_forward"])
    .flow([
        "layers.*.feed_forward",
        "layers.*.feed_forward.w1",
        "layers.*.feed_forward.w2",
        "layers.*.attention_norm",
    ])
    .flow(["layers.*.feed_forward.w2", "norm"])
}
