//! What a step communicates, counted.

use std::collections::BTreeMap;

use dream_models::llama3::Llama3;
use dream_trainer::mesh::Axis;
use dream_trainer::tensor_parallel::TensorParallelOptions;

use crate::subject::{BATCH, SEQUENCE, Setting, llama3_config, train};

/// Calls and bytes of one training step on the tensor-parallel axis.
fn count(tp: usize, options: TensorParallelOptions) -> BTreeMap<&'static str, (u64, u64)> {
    let run = train::<Llama3>(Setting { dp: 1, tp, options }, 1).remove(0);
    let counters = run.comm.group(Axis::Tp).counters().snapshot();
    counters.into_iter().map(|(name, count)| (name, (count.calls, count.bytes))).collect()
}

#[test]
fn a_layer_makes_two_gathers_and_two_scatters_each_way() {
    let shape = llama3_config().resolve().expect("a small shape");
    let hidden = (BATCH * SEQUENCE * shape.dim * 4) as u64;
    for tp in [2, 4] {
        let used = count(tp, TensorParallelOptions::default());
        let layers = shape.num_layers as u64;
        // Embedding: one scatter forward, one gather backward. Head: one gather forward, one
        // scatter backward.
        let calls = 4 * layers + 2;
        assert_eq!(
            used["all_gather"].0, calls,
            "2 forward and 2 backward per layer, and one each way at the ends"
        );
        assert_eq!(used["reduce_scatter"].0, calls);
        let norms = 2 * layers + 1;
        assert_eq!(used["all_reduce"].0, 3 + norms, "the loss, and the gradient of each norm");
        let volume = |name: &str| used[name].1;
        assert_eq!(volume("all_gather"), calls * hidden, "gathered bytes");
        assert_eq!(volume("reduce_scatter"), calls * hidden, "bytes before they are scattered");
    }
}

#[test]
fn without_sequence_parallelism_a_layer_makes_two_reductions_each_way() {
    let shape = llama3_config().resolve().expect("a small shape");
    let hidden = (BATCH * SEQUENCE * shape.dim * 4) as u64;
    let options =
        TensorParallelOptions { sequence_parallel: false, ..TensorParallelOptions::default() };
    for tp in [2, 4] {
        let used = count(tp, options);
        // Embedding forward and head backward one each, and three small ones for the loss.
        let large = 4 * shape.num_layers as u64 + 2;
        assert_eq!(used["all_reduce"].0, large + 3);
        assert_eq!(used["all_reduce"].1, large * hidden + 3 * (BATCH * SEQUENCE * 4) as u64);
        assert_eq!(used.len(), 1, "nothing else: {used:?}");
    }
}

#[test]
fn gathered_logits_cost_what_the_loss_saves() {
    let shape = llama3_config().resolve().expect("a small shape");
    let options =
        TensorParallelOptions { loss_parallel: false, ..TensorParallelOptions::default() };
    let (with, without) = (count(2, TensorParallelOptions::default()), count(2, options));
    let logits = (BATCH * SEQUENCE * shape.vocab_size.next_multiple_of(2) * 4) as u64;
    assert_eq!(without["all_gather"].1 - with["all_gather"].1, logits);
    assert_eq!(with["all_reduce"].0 - without["all_reduce"].0, 3);
}
