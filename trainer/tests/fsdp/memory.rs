//! Gathered parameters live as long as they are needed.

use dream_trainer::fsdp::{ActivationCheckpointing, FullyShardConfig, Reshard};

use crate::parity::{check, fsdp};
use crate::world::Case;

const BLOCK: usize = (6 + 6 * 10 + 10 + 10 * 6) * size_of::<f32>();
const HEAD: usize = 6 * 13 * size_of::<f32>();
const EMBEDDING: usize = 13 * 6 * size_of::<f32>();

#[test]
fn units_are_freed_after_use() {
    for checkpointing in [ActivationCheckpointing::None, ActivationCheckpointing::Full] {
        for prefetch_units in [0, 1] {
            let config = FullyShardConfig { prefetch_units, ..FullyShardConfig::default() };
            let case = Case {
                degrees: fsdp(4),
                config,
                checkpointing,
                blocks: 6,
                steps: 3,
                ..Case::default()
            };
            for seen in check(&case) {
                assert_eq!(seen.gathered_peak, BLOCK.max(HEAD), "one unit at a time: {case:?}");
                assert_eq!(seen.gathered_after, 0, "{case:?}");
            }
        }
    }
}

#[test]
fn earlier_stages_keep_all_units_until_the_update() {
    for reshard in [Reshard::Optimizer, Reshard::Gradients] {
        let config = FullyShardConfig { reshard, ..FullyShardConfig::default() };
        let case = Case {
            degrees: fsdp(2),
            config,
            blocks: 6,
            steps: 3,
            microbatches: 2,
            ..Case::default()
        };
        for seen in check(&case) {
            assert_eq!(seen.gathered_peak, EMBEDDING + 6 * BLOCK + HEAD);
            assert_eq!(seen.gathered_after, 0, "an update makes gathered parameters stale");
        }
    }
}

#[test]
fn a_rank_holds_its_part_of_each_parameter() {
    let case = Case { degrees: fsdp(8), steps: 1, ..Case::default() };
    for seen in case.run() {
        let held: usize = seen.parameters.values().map(|(_, _, values)| values.len()).sum();
        let whole: usize =
            seen.parameters.values().map(|(_, shape, _)| shape.iter().product::<usize>()).sum();
        // The final norm is in no unit; chunks of up to 13 rows over 8 ranks round up to 2.
        assert!(held <= whole / 4 + 6, "{held} of {whole}");
    }
}

#[test]
fn many_steps_of_many_units_end() {
    for checkpointing in [ActivationCheckpointing::None, ActivationCheckpointing::EveryNth(2)] {
        let case =
            Case { degrees: fsdp(4), checkpointing, blocks: 6, steps: 200, ..Case::default() };
        for seen in case.run() {
            assert!(seen.losses.iter().all(|loss| loss.is_finite()));
            assert!(seen.losses[199] < seen.losses[0]);
        }
    }
}
