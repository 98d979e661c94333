//! The schedules by name, each a pure function of ranks, stages per rank and microbatches.
//!
//! | schedule | stages a rank | idle share of equal stages | microbatches alive on rank r |
//! | --- | --- | --- | --- |
//! | `gpipe` | 1 | (p - 1) / (m + p - 1) | m |
//! | `1f1b` | 1 | (p - 1) / (m + p - 1) | min(p - r, m) |
//! | `interleaved_1f1b` | v >= 2 | (p - 1) / (v m + p - 1) | more than `1f1b`, by (p - 1) / p |
//! | `looped_bfs` | v >= 2 | (p - 1) / (v m + p - 1) | v m |
//! | `zero_bubble` | v >= 1 | (p - 1) / (3 m + p - 1) for v = 1 | min(p, m) for v = 1 |
//! | `zbv` | 2 | near 0 for m >= 2 p - 1 | 2 p halves |
//!
//! p ranks, m microbatches; forward pass, input gradient and weight gradient of a stage take equal
//! times and transfers none. Tests hold the generated schedules to these figures.
//!
//! # References
//!
//! - `GPipe`: Huang et al., arXiv 1811.06965
//! - 1F1B: Narayanan et al., `PipeDream`, arXiv 1806.03377; interleaved: Megatron-LM, arXiv
//!   2104.04473, section 2.2
//! - looped BFS: Lamy-Poirier, Breadth-First Pipeline Parallelism, arXiv 2211.05953
//! - zero bubble: Qi et al., arXiv 2401.10241 (ZB-H1); ZBV: arXiv 2405.15362

use std::fmt;
use std::str::FromStr;

use super::{Action, ActionKind, Schedule, ScheduleError};
use ActionKind::{Backward, Forward, InputGradient, WeightGradient};

/// A schedule by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ScheduleKind {
    /// All forward passes, then all backward passes.
    GPipe,
    /// One forward, one backward: a backward pass as soon as its gradient is there.
    OneForwardOneBackward,
    /// 1F1B over several stages a rank, dealt out in turn.
    Interleaved1F1B,
    /// `GPipe` over several stages a rank, stage by stage.
    LoopedBfs,
    /// 1F1B whose weight gradients fill the bubbles (ZB-H1), over one or several stages a rank.
    ZeroBubble,
    /// Zero bubble over two stages a rank in the shape of a V, so that the first rank also holds the
    /// last stage.
    ZeroBubbleV,
}

impl ScheduleKind {
    /// All of them, with their names.
    pub const NAMES: [(Self, &'static str); 6] = [
        (Self::GPipe, "gpipe"),
        (Self::OneForwardOneBackward, "1f1b"),
        (Self::Interleaved1F1B, "interleaved_1f1b"),
        (Self::LoopedBfs, "looped_bfs"),
        (Self::ZeroBubble, "zero_bubble"),
        (Self::ZeroBubbleV, "zbv"),
    ];

    /// Most passes of a schedule: ranks x stages x microbatches. The largest published runs have
    /// some ten thousand.
    const MOST_PASSES: usize = 1 << 22;

    /// Returns the name.
    pub fn name(self) -> &'static str {
        let mut names = Self::NAMES.into_iter();
        names.find(|(kind, _)| *kind == self).map_or("", |(_, name)| name)
    }

    /// Returns how many stages a rank holds if nothing else is asked for.
    pub fn default_virtual_stages(self) -> usize {
        match self {
            Self::GPipe | Self::OneForwardOneBackward | Self::ZeroBubble => 1,
            Self::Interleaved1F1B | Self::LoopedBfs | Self::ZeroBubbleV => 2,
        }
    }

    /// Makes the schedule of `ranks` ranks with `virtual_stages` stages each.
    ///
    /// # Errors
    ///
    /// A size of 0; more passes than anyone can run; a number of stages that the schedule cannot have; fewer microbatches than ranks
    /// where rounds are dealt, or ones that do not divide into equal rounds.
    pub fn schedule(
        self,
        ranks: usize,
        virtual_stages: usize,
        microbatches: usize,
    ) -> Result<Schedule, ScheduleError> {
        let sizes = [
            ("pipeline_parallel", ranks),
            ("virtual_stages", virtual_stages),
            ("num_microbatches", microbatches),
        ];
        if let Some((what, _)) = sizes.into_iter().find(|(_, size)| *size == 0) {
            return Err(ScheduleError::Zero { what });
        }
        self.check_stages(virtual_stages)?;
        let passes = ranks.checked_mul(virtual_stages).and_then(|n| n.checked_mul(microbatches));
        if passes.is_none_or(|passes| passes > Self::MOST_PASSES) {
            let (stages, most) = (virtual_stages, Self::MOST_PASSES);
            return Err(ScheduleError::TooLarge { ranks, stages, microbatches, most });
        }
        let grid = Grid { ranks, stages: virtual_stages, microbatches };
        let rows = match self {
            Self::GPipe | Self::LoopedBfs => grid.rows(Grid::breadth_first),
            Self::OneForwardOneBackward => grid.rows(Grid::one_forward_one_backward),
            Self::Interleaved1F1B => {
                let per_round = self.per_round(&grid)?;
                grid.rows(|grid, rank| grid.interleaved(rank, per_round, false))
            }
            Self::ZeroBubble => {
                let per_round = self.per_round(&grid)?;
                grid.rows(|grid, rank| grid.interleaved(rank, per_round, true))
            }
            Self::ZeroBubbleV => grid.rows(Grid::zero_bubble_v),
        };
        Schedule::new(rows)
    }

    fn check_stages(self, given: usize) -> Result<(), ScheduleError> {
        let (fits, expected) = match self {
            Self::GPipe | Self::OneForwardOneBackward => (given == 1, "one stage"),
            Self::Interleaved1F1B | Self::LoopedBfs => (given >= 2, "two or more stages"),
            Self::ZeroBubble => (true, "one or more stages"),
            Self::ZeroBubbleV => (given == 2, "two stages"),
        };
        let schedule = self.name();
        if fits { Ok(()) } else { Err(ScheduleError::VirtualStages { schedule, expected, given }) }
    }

    /// Returns how many microbatches go through a stage before a rank turns to its next one.
    fn per_round(self, grid: &Grid) -> Result<usize, ScheduleError> {
        let (ranks, microbatches, schedule) = (grid.ranks, grid.microbatches, self.name());
        if grid.stages == 1 {
            return Ok(ranks);
        }
        if microbatches < ranks {
            let smallest = ranks;
            return Err(ScheduleError::TooFewMicrobatches {
                schedule,
                ranks,
                microbatches,
                smallest,
            });
        }
        let rounds = microbatches / ranks;
        if !microbatches.is_multiple_of(rounds) {
            let (smaller, larger) = (rounds * ranks, microbatches.next_multiple_of(rounds));
            return Err(ScheduleError::UnequalRounds {
                schedule,
                microbatches,
                rounds,
                smaller,
                larger,
            });
        }
        Ok(microbatches / rounds)
    }
}

impl fmt::Display for ScheduleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ScheduleKind {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        let found = Self::NAMES.into_iter().find(|(_, name)| *name == text);
        found.map(|(kind, _)| kind).ok_or_else(|| ScheduleError::UnknownSchedule {
            name: text.to_owned(),
            known: Self::NAMES.map(|(_, name)| name).to_vec(),
        })
    }
}

/// The sizes of a pipeline. Stage s of `stages` on rank r is stage `s * ranks + r` of the model,
/// save in the V.
struct Grid {
    ranks: usize,
    stages: usize,
    microbatches: usize,
}

impl Grid {
    fn rows(&self, row: impl Fn(&Self, usize) -> Vec<Action>) -> Vec<Vec<Action>> {
        (0..self.ranks).map(|rank| row(self, rank)).collect()
    }

    /// All forward passes stage by stage, then all backward passes in the opposite order.
    fn breadth_first(&self, rank: usize) -> Vec<Action> {
        let stage = |local: usize| local * self.ranks + rank;
        let pass =
            |local, kind| (0..self.microbatches).map(move |i| Action::new(stage(local), kind, i));
        let forward = (0..self.stages).flat_map(|local| pass(local, Forward));
        let backward = (0..self.stages).rev().flat_map(|local| pass(local, Backward));
        forward.chain(backward).collect()
    }

    /// As many forward passes as it takes until the first gradient comes back, then one backward
    /// and one forward pass in turn, then the backward passes that are left.
    fn one_forward_one_backward(&self, rank: usize) -> Vec<Action> {
        let m = self.microbatches;
        let warm_up = (self.ranks - rank).min(m);
        let forward = |i| Action::new(rank, Forward, i);
        let backward = |i| Action::new(rank, Backward, i);
        let mut actions: Vec<Action> = (0..warm_up).map(forward).collect();
        for i in 0..m - warm_up {
            actions.extend([backward(i), forward(warm_up + i)]);
        }
        actions.extend((m - warm_up..m).map(backward));
        actions
    }

    /// 1F1B over the rank's stages in turn: `per_round` microbatches go through one stage, then
    /// through the next. With `splits`, backward passes are split and rank r starts the weight
    /// gradients r passes late, so that input gradients reach the ranks before it early.
    fn interleaved(&self, rank: usize, per_round: usize, splits: bool) -> Vec<Action> {
        let passes = self.stages * self.microbatches;
        let (p, v) = (self.ranks, self.stages);
        let between = if v == 1 { 1 } else { 2 } * (p - 1 - rank);
        let warm_up = ((v - 1) * per_round + between).min(passes);
        let place = |nth: usize, is_backward: bool| {
            let turn = nth / per_round % v;
            let local = if is_backward { v - 1 - turn } else { turn };
            let round = nth / (per_round * v);
            (local * p + rank, round * per_round + nth % per_round)
        };
        let action = |kind: ActionKind, nth: usize| {
            let (stage, microbatch) = place(nth, kind != Forward);
            Action::new(stage, kind, microbatch)
        };
        let mut actions: Vec<Action> = (0..warm_up).map(|nth| action(Forward, nth)).collect();
        for nth in 0..passes {
            if warm_up + nth < passes {
                actions.push(action(Forward, warm_up + nth));
            }
            if !splits {
                actions.push(action(Backward, nth));
                continue;
            }
            actions.push(action(InputGradient, nth));
            if nth >= rank {
                actions.push(action(WeightGradient, nth - rank));
            }
        }
        if splits {
            let late = passes.saturating_sub(rank)..passes;
            actions.extend(late.map(|nth| action(WeightGradient, nth)));
        }
        actions
    }

    /// The V: microbatches go down through the first stages of all ranks and come back up through
    /// the second ones, so the first rank is also the first with a gradient.
    fn zero_bubble_v(&self, rank: usize) -> Vec<Action> {
        let p = self.ranks;
        // With fewer microbatches than fill the pipeline, the order is that of a full one without
        // those that are not there.
        let full = self.microbatches.max(2 * p - 1);
        let mut row = Row { stages: [rank, 2 * p - 1 - rank], ..Row::default() };
        for _ in 0..2 * (p - rank) - 1 {
            row.push(Forward, 0);
        }
        for _ in 0..rank {
            row.push(Forward, 1);
            row.push(Forward, 0);
        }
        for _ in 0..p - rank {
            row.push(Forward, 1);
            row.push(InputGradient, 1);
            row.push(WeightGradient, 1);
        }
        while row.done(Forward, 1) < full {
            if row.done(Forward, 0) < full {
                row.push(Forward, 0);
            }
            row.push(InputGradient, 0);
            row.push(WeightGradient, 0);
            row.push(Forward, 1);
            row.push(InputGradient, 1);
            row.push(WeightGradient, 1);
        }
        for _ in 0..rank {
            row.push(InputGradient, 0);
            row.push(InputGradient, 1);
        }
        while row.done(InputGradient, 0) < full {
            row.push(InputGradient, 0);
            row.push(WeightGradient, 0);
        }
        for local in [1, 0] {
            while row.done(WeightGradient, local) < full {
                row.push(WeightGradient, local);
            }
        }
        row.actions.retain(|action| action.microbatch < self.microbatches);
        row.actions
    }
}

/// A rank's actions, each for the next microbatch of its kind and stage.
#[derive(Default)]
struct Row {
    stages: [usize; 2],
    done: [[usize; 2]; 3],
    actions: Vec<Action>,
}

impl Row {
    fn kind(kind: ActionKind) -> usize {
        match kind {
            Forward => 0,
            InputGradient => 1,
            _ => 2,
        }
    }

    fn done(&self, kind: ActionKind, local: usize) -> usize {
        self.done[Self::kind(kind)][local]
    }

    fn push(&mut self, kind: ActionKind, local: usize) {
        let next = &mut self.done[Self::kind(kind)][local];
        self.actions.push(Action::new(self.stages[local], kind, *next));
        *next += 1;
    }
}
