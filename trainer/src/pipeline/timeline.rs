//! [`Timeline`]: when each action of a schedule runs.

use std::collections::BTreeMap;

use super::{Action, ActionKind, Schedule, ScheduleError};

/// How long the actions of a stage take, in any unit of time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Costs {
    /// A forward pass.
    pub forward: f64,
    /// The gradient with regard to the input.
    pub input_gradient: f64,
    /// The gradient with regard to the weights.
    pub weight_gradient: f64,
    /// A whole backward pass.
    pub backward: f64,
    /// Moving a tensor to a stage on another rank; the ranks compute meanwhile.
    pub transfer: f64,
}

impl Default for Costs {
    /// Forward pass, input gradient and weight gradient alike, transfers free: what publications
    /// on schedules assume.
    fn default() -> Self {
        let (forward, input_gradient, weight_gradient) = (1.0, 1.0, 1.0);
        Self { forward, input_gradient, weight_gradient, backward: 2.0, transfer: 0.0 }
    }
}

impl Costs {
    /// Every action takes one step: the columns of a CSV.
    pub(super) fn steps() -> Self {
        Self { backward: 1.0, ..Self::default() }
    }

    fn of(&self, kind: ActionKind) -> f64 {
        match kind {
            ActionKind::Forward => self.forward,
            ActionKind::Backward => self.backward,
            ActionKind::InputGradient => self.input_gradient,
            ActionKind::WeightGradient => self.weight_gradient,
            _ => 0.0,
        }
    }
}

/// An action and when it runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Span {
    /// The action.
    pub action: Action,
    /// When it starts.
    pub start: f64,
    /// When it ends.
    pub end: f64,
}

/// The course of a step under given costs: each rank does its actions in order, each as soon as
/// what it needs is there.
#[derive(Debug, Clone, PartialEq)]
pub struct Timeline {
    ranks: Vec<Vec<Span>>,
}

impl Timeline {
    /// Runs a schedule in thought.
    ///
    /// # Errors
    ///
    /// [`ScheduleError::Deadlock`] if ranks wait for each other for ever.
    pub fn of(schedule: &Schedule, costs: &Costs) -> Result<Self, ScheduleError> {
        let mut ranks: Vec<Vec<Span>> = vec![Vec::new(); schedule.num_ranks()];
        let mut ends: BTreeMap<Action, f64> = BTreeMap::new();
        loop {
            let mut has_moved = false;
            for (rank, spans) in ranks.iter_mut().enumerate() {
                let actions = &schedule.ranks()[rank];
                while let Some(action) = actions.get(spans.len()) {
                    let Some(ready) = ready_at(schedule, &ends, *action, costs.transfer) else {
                        break;
                    };
                    let start = spans.last().map_or(0.0, |span| span.end).max(ready);
                    let end = start + costs.of(action.kind);
                    spans.push(Span { action: *action, start, end });
                    ends.insert(*action, end);
                    has_moved = true;
                }
            }
            if !has_moved {
                break;
            }
        }
        let waits = |(rank, spans): (usize, &Vec<Span>)| {
            let action = schedule.ranks()[rank].get(spans.len())?;
            Some(format!("rank {rank} waits with `{action}`"))
        };
        let blocked: Vec<String> = ranks.iter().enumerate().filter_map(waits).collect();
        if blocked.is_empty() {
            Ok(Self { ranks })
        } else {
            Err(ScheduleError::Deadlock { blocked })
        }
    }

    /// Returns the actions of a rank with their times, in order.
    pub fn rank(&self, rank: usize) -> &[Span] {
        &self.ranks[rank]
    }

    /// Returns the number of ranks.
    pub fn num_ranks(&self) -> usize {
        self.ranks.len()
    }

    /// Returns how long the step takes.
    pub fn duration(&self) -> f64 {
        self.ranks.iter().flatten().map(|span| span.end).fold(0.0, f64::max)
    }

    /// Returns the share of all ranks' time in which they do not compute: the bubble, from 0 to 1.
    pub fn idle_share(&self) -> f64 {
        let busy: f64 = self.ranks.iter().flatten().map(|span| span.end - span.start).sum();
        1.0 - busy / (self.duration() * self.num_ranks() as f64)
    }

    /// Returns the most microbatches that a rank keeps at a time for a backward pass, counted over
    /// all of its stages, from the start of a forward pass to the end of the backward pass or of
    /// the weight gradient.
    pub fn peak_live(&self, rank: usize) -> usize {
        let (mut live, mut peak) = (0_usize, 0);
        for span in self.rank(rank) {
            match span.action.kind {
                ActionKind::Forward => live += 1,
                // A checked schedule has a forward pass before each.
                ActionKind::Backward | ActionKind::WeightGradient => live -= 1,
                _ => {}
            }
            peak = peak.max(live);
        }
        peak
    }
}

/// Returns when everything that an action needs is on its rank; nothing while some of it has not
/// run.
fn ready_at(
    schedule: &Schedule,
    ends: &BTreeMap<Action, f64>,
    action: Action,
    transfer: f64,
) -> Option<f64> {
    let Action { stage, kind, microbatch } = action;
    let done = |kind, stage: usize| ends.get(&Action::new(stage, kind, microbatch)).copied();
    let from = |other: usize, end: f64| {
        let is_far = schedule.rank_of_stage(other) != schedule.rank_of_stage(stage);
        if is_far { end + transfer } else { end }
    };
    match kind {
        ActionKind::Forward if stage == 0 => Some(0.0),
        ActionKind::Forward => Some(from(stage - 1, done(ActionKind::Forward, stage - 1)?)),
        ActionKind::Backward | ActionKind::InputGradient => {
            let forward = done(ActionKind::Forward, stage)?;
            if stage + 1 == schedule.num_stages() {
                return Some(forward);
            }
            let gradient = done(ActionKind::Backward, stage + 1)
                .or_else(|| done(ActionKind::InputGradient, stage + 1))?;
            Some(forward.max(from(stage + 1, gradient)))
        }
        ActionKind::WeightGradient => done(ActionKind::InputGradient, stage),
        _ => Some(0.0),
    }
}
