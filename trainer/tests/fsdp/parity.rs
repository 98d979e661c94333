//! Losses, gradient norms, gradients and parameters of every mesh equal those of one rank.

use dream_trainer::fsdp::{ActivationCheckpointing, FullyShardConfig, Reshard};
use dream_trainer::mesh::{Degree, Degrees};
use dream_trainer::optim::OptimizerName;

use crate::tolerance::{FIRST_STEP, LATER_STEP, MODEL, PAIR};
use crate::world::{Blocks, Case, Seen, assemble};

pub(crate) fn fsdp(ranks: usize) -> Degrees {
    Degrees { dp_shard: Degree::Fixed(ranks), ..Degrees::default() }
}

fn close(what: &str, a: f64, b: f64, tolerance: f64) {
    assert!(
        (a - b).abs() <= tolerance * b.abs().max(1e-2),
        "{what}: {a} is not {b} within {tolerance}"
    );
}

/// Compares a case with training on one rank.
pub(crate) fn check(case: &Case) -> Vec<Seen> {
    let single = Case {
        degrees: Degrees::default(),
        checkpointing: ActivationCheckpointing::None,
        config: FullyShardConfig { cpu_offload: false, ..case.config.clone() },
        ..case.clone()
    };
    let reference = single.run().remove(0);
    let ranks = case.run();
    for (index, seen) in ranks.iter().enumerate() {
        for step in 0..case.steps {
            let tolerance = if step == 0 { FIRST_STEP } else { LATER_STEP };
            let at = format!("rank {index}, step {step} of {case:?}");
            close(&format!("loss, {at}"), seen.losses[step], reference.losses[step], tolerance);
            close(&format!("norm, {at}"), seen.norms[step], reference.norms[step], tolerance);
        }
    }
    let gradients: fn(&Seen) -> &Blocks = |seen| &seen.first_gradients;
    let parameters: fn(&Seen) -> &Blocks = |seen| &seen.parameters;
    let kinds = [("gradient", PAIR, gradients), ("parameter", MODEL, parameters)];
    for (kind, tolerance, of) in kinds {
        let whole = assemble(ranks.iter().map(of));
        let expected = assemble(std::iter::once(of(&reference)));
        assert_eq!(whole.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        for (path, values) in &whole {
            let largest = expected[path].iter().fold(0.0_f32, |max, value| max.max(value.abs()));
            for (a, b) in values.iter().zip(&expected[path]) {
                assert!(
                    (a - b).abs() <= tolerance as f32 * largest.max(1e-2),
                    "{kind} of `{path}`: {a} is not {b}, {case:?}"
                );
            }
        }
    }
    ranks
}

#[test]
fn sharding_over_any_number_of_ranks_equals_one_rank() {
    for ranks in [2, 4, 8] {
        check(&Case { degrees: fsdp(ranks), ..Case::default() });
    }
}

#[test]
fn every_stage_equals_one_rank_with_every_optimizer() {
    for reshard in [Reshard::Optimizer, Reshard::Gradients, Reshard::Parameters] {
        for optimizer in [OptimizerName::Sgd, OptimizerName::Adamw] {
            let config = FullyShardConfig { reshard, ..FullyShardConfig::default() };
            check(&Case {
                degrees: fsdp(4),
                config,
                optimizer,
                microbatches: 2,
                ..Case::default()
            });
        }
    }
}

#[test]
fn replicated_shards_and_context_ranks_equal_one_rank() {
    let two = Degree::Fixed(2);
    let meshes = [
        Degrees { dp_replicate: two, dp_shard: two, ..Degrees::default() },
        Degrees { dp_shard: two, cp: two, ..Degrees::default() },
        Degrees { dp_replicate: two, cp: two, ..Degrees::default() },
        Degrees { dp_replicate: two, ..Degrees::default() },
    ];
    for degrees in meshes {
        check(&Case { degrees, microbatches: 2, ..Case::default() });
    }
}

#[test]
fn activation_checkpointing_equals_one_rank() {
    use ActivationCheckpointing::{EveryNth, Full, Selective};
    for checkpointing in [Full, EveryNth(2), Selective] {
        for ranks in [1, 4] {
            check(&Case { degrees: fsdp(ranks), checkpointing, blocks: 3, ..Case::default() });
        }
    }
}
