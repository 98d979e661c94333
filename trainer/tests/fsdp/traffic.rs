//! How often a unit communicates, and how much.

use dream_trainer::fsdp::{ActivationCheckpointing, FullyShardConfig, Reshard};

use crate::parity::{check, fsdp};
use crate::world::Case;

/// Gathers and reductions of a step with `units` units and `a` microbatches.
struct Row {
    reshard: Reshard,
    checkpointing: ActivationCheckpointing,
    keep_last_unit: bool,
    accumulate_whole_gradients: bool,
    gathers: fn(units: u64, a: u64) -> u64,
    reductions: fn(units: u64, a: u64) -> u64,
}

const ROWS: [Row; 6] = [
    // The embedding's backward does not read its table, so only blocks and head are gathered again.
    Row {
        reshard: Reshard::Parameters,
        checkpointing: ActivationCheckpointing::None,
        keep_last_unit: false,
        accumulate_whole_gradients: false,
        gathers: |units, a| a * (2 * units - 1),
        reductions: |units, a| a * units,
    },
    Row {
        reshard: Reshard::Parameters,
        checkpointing: ActivationCheckpointing::None,
        keep_last_unit: true,
        accumulate_whole_gradients: false,
        gathers: |units, a| a * (2 * units - 2),
        reductions: |units, a| a * units,
    },
    Row {
        reshard: Reshard::Parameters,
        checkpointing: ActivationCheckpointing::Full,
        keep_last_unit: true,
        accumulate_whole_gradients: false,
        gathers: |units, a| a * (2 * units - 2),
        reductions: |units, a| a * units,
    },
    Row {
        reshard: Reshard::Parameters,
        checkpointing: ActivationCheckpointing::None,
        keep_last_unit: true,
        accumulate_whole_gradients: true,
        gathers: |units, a| a * (2 * units - 2),
        reductions: |units, _| units,
    },
    Row {
        reshard: Reshard::Gradients,
        checkpointing: ActivationCheckpointing::None,
        keep_last_unit: true,
        accumulate_whole_gradients: false,
        gathers: |units, _| units,
        reductions: |units, a| a * units,
    },
    Row {
        reshard: Reshard::Optimizer,
        checkpointing: ActivationCheckpointing::None,
        keep_last_unit: true,
        accumulate_whole_gradients: false,
        gathers: |units, _| units,
        reductions: |units, _| units,
    },
];

#[test]
fn each_stage_makes_the_calls_of_its_formula() {
    for row in ROWS {
        for (blocks, microbatches) in [(2, 1), (3, 4)] {
            for prefetch_units in [0, 1, 2] {
                let Row { reshard, checkpointing, keep_last_unit, gathers, reductions, .. } = row;
                let config = FullyShardConfig {
                    reshard,
                    keep_last_unit,
                    accumulate_whole_gradients: row.accumulate_whole_gradients,
                    prefetch_units,
                    ..FullyShardConfig::default()
                };
                let case = Case {
                    degrees: fsdp(2),
                    config,
                    checkpointing,
                    blocks,
                    microbatches,
                    steps: 3,
                    ..Case::default()
                };
                let units = blocks as u64 + 2;
                for seen in check(&case) {
                    let calls = |name| seen.operations.get(name).map_or(0, |count| count.calls);
                    assert_eq!(
                        calls("all_gather"),
                        gathers(units, microbatches as u64),
                        "gathers of {case:?}"
                    );
                    assert_eq!(
                        calls("reduce_scatter"),
                        reductions(units, microbatches as u64),
                        "reductions of {case:?}"
                    );
                    assert_eq!(
                        seen.operations.len(),
                        2,
                        "{case:?} communicates in no other way: {:?}",
                        seen.operations
                    );
                }
            }
        }
    }
}

#[test]
fn bytes_are_those_of_the_parameters() {
    let case = Case { degrees: fsdp(2), steps: 2, ..Case::default() };
    let ranks = check(&case);
    // Embedding, two blocks, head; odd rows are filled up to even ones.
    let (embedding, block, head) = (14 * 6, 6 + 6 * 10 + 10 + 10 * 6, 6 * 13);
    let whole = |elements: usize| (elements * size_of::<f32>()) as u64;
    let gathered = whole(embedding + 4 * block + head);
    let reduced = whole(embedding + 2 * block + head);
    for seen in ranks {
        assert_eq!(seen.operations["all_gather"].bytes, gathered);
        assert_eq!(seen.operations["reduce_scatter"].bytes, reduced);
    }
}

#[test]
fn resharded_parameters_cost_one_and_a_half_times_the_bytes_of_replicas() {
    let config = FullyShardConfig { keep_last_unit: false, ..FullyShardConfig::default() };
    let ranks = 2;
    let case = Case { degrees: fsdp(ranks), config, steps: 2, ..Case::default() };
    // With odd rows filled up to even ones.
    let embedding = (14 * 6 * size_of::<f32>()) as u64;
    let others = ((2 * (6 + 6 * 10 + 10 + 10 * 6) + 6 * 13) * size_of::<f32>()) as u64;
    let share = |bytes: u64| bytes * (ranks as u64 - 1) / ranks as u64;
    let replicas = 2 * share(embedding + others);
    for seen in check(&case) {
        let sent: u64 = seen.operations.values().map(|count| share(count.bytes)).sum();
        // The lookup's backward does not read its table, which is not gathered again.
        assert_eq!(2 * (sent + share(embedding)), 3 * replicas);
    }
}

#[test]
fn one_rank_communicates_nothing() {
    let case = Case { degrees: fsdp(1), steps: 2, ..Case::default() };
    assert!(case.run().iter().all(|seen| seen.operations.is_empty()));
}
