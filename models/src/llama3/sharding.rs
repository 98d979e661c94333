//! How Llama 3 lies over tensor-parallel ranks.

use dream_trainer::mesh::Placement;
use dream_trainer::tensor_parallel::{
    ColwiseParallel, Plan, PrepareModuleInput, RowwiseParallel, SEQUENCE, SequenceParallel,
    TensorParallelOptions, VocabParallel,
};

use super::Llama3Shape;

/// Returns the plan of a model of this shape.
///
/// Projections into heads and into the feed-forward width split their outputs, those back to the
/// hidden size their inputs, embedding and head the vocabulary. With sequence parallelism
/// everything between lies in parts of the sequence.
///
/// # Communication
///
/// Per block, forward: two all-gathers and two reduce-scatters of `[b, s, h]`, or two all-reduces
/// without sequence parallelism; backward the same.
///
/// # References
///
/// torchtitan, arXiv:2410.06511, section 3.2 on tensor and sequence parallelism.
pub fn plan(shape: &Llama3Shape, options: TensorParallelOptions) -> Plan {
    let between = if options.sequence_parallel { SEQUENCE } else { Placement::Replicate };
    let enter = PrepareModuleInput { input: between, desired: Placement::Replicate };
    let queries = ColwiseParallel::default().in_units("num_heads", shape.num_heads);
    // Where there are more ranks than key-value heads, ranks whose query heads read the same one
    // hold a copy of it each.
    let keys = ColwiseParallel::default().in_shared_units("num_kv_heads", shape.num_kv_heads);
    let leave = RowwiseParallel::default().with_output(between);
    let vocabulary = VocabParallel::default()
        .with_output(between)
        .with_head_input(between)
        .with_loss_parallel(options.loss_parallel);
    let mut plan = Plan::new()
        .style("tok_embeddings", vocabulary)
        .style("layers.*.attention", enter)
        .style("layers.*.attention.wq", queries)
        .style("layers.*.attention.wk", keys)
        .style("layers.*.attention.wv", keys)
        .style("layers.*.attention.wo", leave.in_units("num_heads", shape.num_heads))
        .style("layers.*.feed_forward", enter)
        .style("layers.*.feed_forward.w1", ColwiseParallel::default())
        .style("layers.*.feed_forward.w3", ColwiseParallel::default())
        .style("layers.*.feed_forward.w2", leave);
    if options.sequence_parallel {
        for norm in ["layers.*.attention_norm", "layers.*.ffn_norm", "norm"] {
            plan = plan.style(norm, SequenceParallel::default());
        }
    }
    let mut last = vec!["layers.*.feed_forward.w2", "norm"];
    if !shape.tied_embeddings {
        plan = plan.style("output", vocabulary);
        last.push("output");
    }
    plan.flow([
        "tok_embeddings",
        "layers.*.attention_norm",
        "layers.*.attention",
        "layers.*.attention.wq",
        "layers.*.attention.wo",
    ])
    .flow(["layers.*.attention", "layers.*.attention.wk"])
    .flow(["layers.*.attention", "layers.*.attention.wv"])
    .flow(["layers.*.attention.wo", "layers.*.ffn_norm", "layers.*.feed_forward"])
    .flow([
        "layers.*.feed_forward",
        "layers.*.feed_forward.w1",
        "layers.*.feed_forward.w2",
        "layers.*.attention_norm",
    ])
    .flow(["layers.*.feed_forward", "layers.*.feed_forward.w3"])
    .flow(last)
}
