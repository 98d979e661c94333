//! What a step communicates, counted.

use std::collections::BTreeMap;

use dream_trainer::mesh::Axis;
use dream_trainer::nn::Scope;
use dream_trainer::tensor_parallel::{TensorParallel, TensorParallelOptions};

use crate::harness::device;
use crate::subject::{
    BATCH, Llama, SEQUENCE, Setting, Subject, batch, llama3_config, on_ranks, train,
};

/// Calls and bytes of one training step on the tensor-parallel axis.
fn count(tp: usize, options: TensorParallelOptions) -> BTreeMap<&'static str, (u64, u64)> {
    let run = train::<Llama>(Setting { dp: 1, tp, options }, 1).remove(0);
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

/// Calls and bytes of one pass by operation.
type Used = BTreeMap<&'static str, (u64, u64)>;

/// Counts what a loss needs, forward and backward.
fn by_direction(tp: usize, options: TensorParallelOptions) -> [Used; 2] {
    let setting = Setting { dp: 1, tp, options };
    on_ranks(setting, |comm| {
        let (scope, group) = (Scope::root(device(), 7), comm.group(Axis::Tp));
        let model = Llama::build(&scope);
        let plan = Llama::plan(&model, options);
        let model = TensorParallel::new(scope, group.clone(), options)
            .parallelize(model, &plan)
            .expect("the plan fits");
        let [tokens, labels] = batch(0..BATCH, &device().inner());
        let take = || {
            let used = group.counters().snapshot();
            group.counters().reset();
            used.into_iter().map(|(name, count)| (name, (count.calls, count.bytes))).collect()
        };
        let loss = Llama::loss(&model, tokens, labels);
        let forward = take();
        loss.backward();
        [forward, take()]
    })
    .remove(0)
}

/// Bytes that a rank sends for calls of nominal size `bytes`, with ring algorithms.
fn on_the_wire(used: &Used, tp: u64) -> u64 {
    let of = |name: &str| used.get(name).map_or(0, |(_, bytes)| *bytes);
    (of("all_gather") + of("reduce_scatter") + 2 * of("all_reduce")) * (tp - 1) / tp
}

#[test]
fn each_direction_moves_what_the_formulas_say() {
    let shape = llama3_config().resolve().expect("a small shape");
    let (layers, hidden) = (shape.num_layers as u64, (BATCH * SEQUENCE * shape.dim * 4) as u64);
    let loss = 3 * (BATCH * SEQUENCE * 4) as u64;
    // A part of the sequence of 8 or 4 tokens is cut into four chunks.
    let chunks = 4;
    for tp in [2, 4] {
        for sequence_parallel in [true, false] {
            for overlap in [false, true] {
                let options = TensorParallelOptions {
                    sequence_parallel,
                    overlap,
                    ..TensorParallelOptions::default()
                };
                let [forward, backward] = by_direction(tp, options);
                let (once, again, all) = match (sequence_parallel, overlap) {
                    (true, false) => (2 * layers + 1, 0, 0),
                    // The products of a layer go chunk by chunk, those at the ends do not; backward
                    // gathers the inputs of both projections again.
                    (true, true) => (2 * layers * chunks + 1, 2 * layers * chunks, 0),
                    (false, _) => (0, 0, 2 * layers + 1),
                };
                let bytes = if sequence_parallel { (2 * layers + 1) * hidden } else { 0 };
                let repeated = if again > 0 { 2 * layers * hidden } else { 0 };
                let expected = |calls, bytes| if calls == 0 { None } else { Some((calls, bytes)) };
                let of = |used: &Used, name| used.get(name).copied();
                let what = format!("tp {tp}, {options:?}");
                assert_eq!(of(&forward, "all_gather"), expected(once, bytes), "{what}");
                assert_eq!(of(&forward, "reduce_scatter"), expected(once, bytes), "{what}");
                let reduced = expected(all + 3, all * hidden + loss);
                assert_eq!(of(&forward, "all_reduce"), reduced, "{what}");
                let gathered = expected(once + again, bytes + repeated);
                assert_eq!(of(&backward, "all_gather"), gathered, "{what}");
                assert_eq!(of(&backward, "reduce_scatter"), expected(once, bytes), "{what}");
                assert_eq!(of(&backward, "all_reduce"), expected(all, all * hidden), "{what}");

                // 8 (t - 1) / t of the hidden states per layer and two gathers or scatters of them at
                // either end, whichever way; with the second gather 10 (t - 1) / t.
                let tp = tp as u64;
                let per_layer = if again > 0 { 10 } else { 8 };
                let volume = (layers * per_layer + 4) * hidden * (tp - 1) / tp;
                let small = 2 * loss * (tp - 1) / tp;
                let moved = on_the_wire(&forward, tp) + on_the_wire(&backward, tp);
                assert_eq!(moved, volume + small, "{what}");
            }
        }
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
