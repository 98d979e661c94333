//! Pipeline schedules: what every one of them keeps to, the figures they promise, their texts.
#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps an error")]

mod figures;
mod laws;
mod split;
mod texts;

use dream_trainer::pipeline::{Schedule, ScheduleKind};
use proptest::prelude::*;

/// Any schedule that can be made of small sizes.
fn any_schedule() -> impl Strategy<Value = (ScheduleKind, usize, usize, Schedule)> {
    let kinds = prop::sample::select(ScheduleKind::NAMES.map(|(kind, _)| kind).to_vec());
    (kinds, 1..7_usize, 1..4_usize, 1..14_usize).prop_filter_map(
        "the sizes do not fit the schedule",
        |(kind, ranks, stages, microbatches)| {
            let schedule = kind.schedule(ranks, stages, microbatches).ok()?;
            Some((kind, ranks, stages, schedule))
        },
    )
}
