//! What moves between the compute actions: sends and receives, and what sharded stages need.

use std::collections::{BTreeMap, BTreeSet};

use super::{Action, ActionKind, Costs, Schedule, Timeline};

/// Something that happens in the course of a step.
struct Event {
    time: f64,
    is_compute: bool,
    rank: usize,
    action: Action,
}

impl Schedule {
    /// Returns the actions of each rank with sends and receives between them.
    ///
    /// A tensor is sent when it has been computed. Its receive stands in front of the first action
    /// that starts later in the course of a step, so all ranks follow one order of what happens, and
    /// no order of waiting deadlocks, also where a send waits for its receive. Tensors between
    /// stages of one rank do not travel.
    pub fn with_communication(&self) -> Vec<Vec<Action>> {
        let timeline = Timeline::of(self, &Costs::default()).expect("a schedule was checked");
        let mut events = Vec::new();
        for rank in 0..self.num_ranks() {
            for span in timeline.rank(rank) {
                let (time, action) = (span.start, span.action);
                events.push(Event { time, is_compute: true, rank, action });
                let Some((to_stage, send, receive)) = self.transfer_after(action) else { continue };
                let to = self.rank_of_stage(to_stage);
                if to != rank {
                    let ends = [(rank, action.stage, send), (to, to_stage, receive)];
                    events.extend(ends.map(|(rank, stage, kind)| {
                        let action = Action::new(stage, kind, action.microbatch);
                        Event { time: span.end, is_compute: false, rank, action }
                    }));
                }
            }
        }
        // What has come at the time at which an action starts may be what it waits for. The sort is
        // stable: both ends of a transfer keep their place beside each other.
        events.sort_by(|a, b| a.time.total_cmp(&b.time).then(a.is_compute.cmp(&b.is_compute)));
        let mut rows = vec![Vec::new(); self.num_ranks()];
        for event in events {
            rows[event.rank].push(event.action);
        }
        rows
    }

    /// Returns the stage that waits for the result of an action, and how it gets there.
    fn transfer_after(&self, action: Action) -> Option<(usize, ActionKind, ActionKind)> {
        use ActionKind::{RecvBackward, RecvForward, SendBackward, SendForward};
        match action.kind {
            ActionKind::Forward if action.stage + 1 < self.num_stages() => {
                Some((action.stage + 1, SendForward, RecvForward))
            }
            ActionKind::Backward | ActionKind::InputGradient if action.stage > 0 => {
                Some((action.stage - 1, SendBackward, RecvBackward))
            }
            _ => None,
        }
    }

    /// Adds to [`Self::with_communication`] what sharded stages need: one gather before a stage's
    /// first pass, one reduction of its gradients and one release behind its last.
    pub fn with_sharding(&self) -> Vec<Vec<Action>> {
        self.with_communication().into_iter().map(|row| shard(&row)).collect()
    }
}

fn shard(row: &[Action]) -> Vec<Action> {
    let mut lowered = Vec::with_capacity(row.len());
    let mut seen = BTreeSet::new();
    let mut last = BTreeMap::new();
    for (place, action) in row.iter().enumerate().filter(|(_, action)| action.kind.computes()) {
        last.insert(action.stage, place);
    }
    for (place, action) in row.iter().enumerate() {
        let once = |kind| Action::new(action.stage, kind, 0);
        if action.kind.computes() && seen.insert(action.stage) {
            lowered.push(once(ActionKind::Unshard));
        }
        lowered.push(*action);
        if last.get(&action.stage) == Some(&place) {
            lowered.extend([once(ActionKind::ReduceGrad), once(ActionKind::Reshard)]);
        }
    }
    lowered
}
