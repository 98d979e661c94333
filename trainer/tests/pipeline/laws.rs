//! Every schedule of every size: complete, in an order that runs, with transfers that match.

use std::collections::{BTreeMap, BTreeSet};

use dream_trainer::pipeline::{Action, ActionKind, Costs, Schedule, Timeline};
use proptest::prelude::*;

use crate::any_schedule;

proptest! {
    #[test]
    fn each_stage_does_each_pass_of_each_microbatch_once((_, ranks, stages, schedule) in any_schedule()) {
        prop_assert_eq!(schedule.num_stages(), ranks * stages);
        let count = schedule.num_stages() * schedule.num_microbatches();
        let of = |kind| {
            let actions = schedule.ranks().iter().flatten();
            actions.filter(|action| action.kind == kind).collect::<BTreeSet<_>>().len()
        };
        prop_assert_eq!(of(ActionKind::Forward), count);
        let halves = if schedule.splits_backward() { count } else { 0 };
        prop_assert_eq!(of(ActionKind::InputGradient), halves);
        prop_assert_eq!(of(ActionKind::WeightGradient), halves);
        prop_assert_eq!(of(ActionKind::Backward), count - halves);
        for rank in 0..ranks {
            prop_assert_eq!(schedule.stages_of_rank(rank).len(), stages);
        }
    }

    #[test]
    fn what_an_action_needs_has_ended_before_it_starts((_, _, _, schedule) in any_schedule(), transfer in 0.0..2.0) {
        let costs = Costs { transfer, ..Costs::default() };
        let timeline = Timeline::of(&schedule, &costs).unwrap();
        let spans: BTreeMap<Action, _> = (0..timeline.num_ranks())
            .flat_map(|rank| timeline.rank(rank))
            .map(|span| (span.action, *span))
            .collect();
        for (action, span) in &spans {
            let end = |stage, kind| spans[&Action::new(stage, kind, action.microbatch)].end;
            match action.kind {
                ActionKind::Forward if action.stage > 0 => {
                    prop_assert!(span.start >= end(action.stage - 1, ActionKind::Forward));
                }
                ActionKind::Backward | ActionKind::InputGradient => {
                    prop_assert!(span.start >= end(action.stage, ActionKind::Forward));
                    if action.stage + 1 < schedule.num_stages() {
                        prop_assert!(span.start >= end(action.stage + 1, action.kind));
                    }
                }
                ActionKind::WeightGradient => {
                    prop_assert!(span.start >= end(action.stage, ActionKind::InputGradient));
                }
                _ => {}
            }
        }
    }

    /// Also where a send waits until its receive is reached, and a receive until its send.
    #[test]
    fn transfers_match_and_cannot_deadlock((_, _, _, schedule) in any_schedule()) {
        let rows = schedule.with_communication();
        for (rank, row) in rows.iter().enumerate() {
            let compute: Vec<Action> = row.iter().filter(|a| a.kind.computes()).copied().collect();
            prop_assert_eq!(&compute, &schedule.ranks()[rank], "lowering keeps a rank's order");
        }
        prop_assert_eq!(unfinished(&schedule, &rows), Vec::<Action>::new());
    }

    #[test]
    fn sharded_stages_are_gathered_once_and_reduced_once((_, _, _, schedule) in any_schedule()) {
        for (rank, row) in schedule.with_sharding().iter().enumerate() {
            for stage in schedule.stages_of_rank(rank) {
                let of_stage: Vec<ActionKind> = row
                    .iter()
                    .filter(|action| action.stage == stage && (action.kind.computes() || !action.kind.has_microbatch()))
                    .map(|action| action.kind)
                    .collect();
                prop_assert_eq!(of_stage[0], ActionKind::Unshard);
                let end = &of_stage[of_stage.len() - 2..];
                prop_assert_eq!(end, &[ActionKind::ReduceGrad, ActionKind::Reshard]);
                let passes = &of_stage[1..of_stage.len() - 2];
                prop_assert!(passes.iter().all(|kind| kind.computes()));
            }
        }
    }

    #[test]
    fn a_schedule_survives_its_csv((_, _, _, schedule) in any_schedule()) {
        prop_assert_eq!(Schedule::from_csv(&schedule.to_csv()), Ok(schedule));
    }

    #[test]
    fn any_text_is_read_or_refused_without_a_panic(text in "[0-9FBIW_SENDRCV,\n ]{0,60}") {
        if let Ok(schedule) = Schedule::from_csv(&text) {
            prop_assert!(schedule.num_microbatches() > 0);
        }
    }
}

/// Runs rows in which both ends of a transfer wait for each other, and returns the actions at which
/// they stop for ever.
fn unfinished(schedule: &Schedule, rows: &[Vec<Action>]) -> Vec<Action> {
    let mut next = vec![0; rows.len()];
    let mut received = BTreeSet::new();
    loop {
        let mut has_moved = false;
        for rank in 0..rows.len() {
            let Some(action) = rows[rank].get(next[rank]).copied() else { continue };
            match partner(schedule, action) {
                None => {
                    assert!(is_fed(schedule, &received, rank, action), "{action} has no input");
                    next[rank] += 1;
                    has_moved = true;
                }
                Some((peer, expected)) if rows[peer].get(next[peer]) == Some(&expected) => {
                    received.extend([action, expected]);
                    next[rank] += 1;
                    next[peer] += 1;
                    has_moved = true;
                }
                Some(_) => {}
            }
        }
        if !has_moved {
            let rest = rows.iter().zip(&next).filter_map(|(row, next)| row.get(*next).copied());
            return rest.collect();
        }
    }
}

/// Returns the other end of a transfer: its rank and its action.
fn partner(schedule: &Schedule, action: Action) -> Option<(usize, Action)> {
    let (stage, kind) = match action.kind {
        ActionKind::SendForward => (action.stage + 1, ActionKind::RecvForward),
        ActionKind::RecvForward => (action.stage - 1, ActionKind::SendForward),
        ActionKind::SendBackward => (action.stage - 1, ActionKind::RecvBackward),
        ActionKind::RecvBackward => (action.stage + 1, ActionKind::SendBackward),
        _ => return None,
    };
    Some((schedule.rank_of_stage(stage), Action::new(stage, kind, action.microbatch)))
}

/// Returns whether a compute action's input from another rank has been received.
fn is_fed(schedule: &Schedule, received: &BTreeSet<Action>, rank: usize, action: Action) -> bool {
    let (from, kind) = match action.kind {
        ActionKind::Forward if action.stage > 0 => (action.stage - 1, ActionKind::RecvForward),
        ActionKind::Backward | ActionKind::InputGradient
            if action.stage + 1 < schedule.num_stages() =>
        {
            (action.stage + 1, ActionKind::RecvBackward)
        }
        _ => return true,
    };
    schedule.rank_of_stage(from) == rank
        || received.contains(&Action::new(action.stage, kind, action.microbatch))
}
