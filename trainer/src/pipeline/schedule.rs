//! [`Schedule`]: the compute actions of every rank, in order.

use std::collections::{BTreeMap, BTreeSet};

use super::{Action, ActionKind, Costs, ScheduleError, Timeline};

/// The order in which the ranks of a pipeline compute one optimizer step.
///
/// It is checked when it is made: every stage lies on one rank, every stage does one forward and one
/// backward pass of every microbatch (the latter whole, or as input and weight gradient), and no
/// order of waiting deadlocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    ranks: Vec<Vec<Action>>,
    rank_of_stage: Vec<usize>,
    num_microbatches: usize,
}

impl Schedule {
    /// Checks the order of each rank's compute actions.
    ///
    /// # Errors
    ///
    /// See the type: what is missing, there twice or out of order is named.
    pub fn new(ranks: Vec<Vec<Action>>) -> Result<Self, ScheduleError> {
        let rank_of_stage = place_stages(&ranks)?;
        let actions = || ranks.iter().flatten();
        let num_microbatches = actions().map(|action| action.microbatch + 1).max().unwrap_or(0);
        let schedule = Self { ranks, rank_of_stage, num_microbatches };
        schedule.check_complete()?;
        Timeline::of(&schedule, &Costs::default())?;
        Ok(schedule)
    }

    /// Returns the actions of each rank, in order.
    pub fn ranks(&self) -> &[Vec<Action>] {
        &self.ranks
    }

    /// Returns the number of ranks.
    pub fn num_ranks(&self) -> usize {
        self.ranks.len()
    }

    /// Returns the number of stages over all ranks.
    pub fn num_stages(&self) -> usize {
        self.rank_of_stage.len()
    }

    /// Returns the number of microbatches of a step.
    pub fn num_microbatches(&self) -> usize {
        self.num_microbatches
    }

    /// Returns the rank that holds a stage.
    ///
    /// # Panics
    ///
    /// If there is no such stage.
    pub fn rank_of_stage(&self, stage: usize) -> usize {
        self.rank_of_stage[stage]
    }

    /// Returns the stages that a rank holds, in ascending order.
    pub fn stages_of_rank(&self, rank: usize) -> Vec<usize> {
        (0..self.num_stages()).filter(|stage| self.rank_of_stage[*stage] == rank).collect()
    }

    /// Returns whether backward passes come as input and weight gradients.
    pub fn splits_backward(&self) -> bool {
        self.ranks.iter().flatten().any(|action| action.kind == ActionKind::InputGradient)
    }

    /// Returns the forward passes alone, for validation.
    pub fn forward_only(&self) -> Vec<Vec<Action>> {
        let is_forward = |action: &&Action| action.kind == ActionKind::Forward;
        self.ranks.iter().map(|rank| rank.iter().filter(is_forward).copied().collect()).collect()
    }

    /// Writes one row a rank and one column a time step, as `PyTorch`'s pipelining reads it: cells
    /// are actions, an empty cell is an idle step, and there is no header.
    pub fn to_csv(&self) -> String {
        let steps = Timeline::of(self, &Costs::steps()).expect("a schedule was checked");
        let length = steps.duration() as usize;
        let mut text = String::new();
        for rank in 0..self.num_ranks() {
            let mut cells = vec![String::new(); length];
            for span in steps.rank(rank) {
                cells[span.start as usize] = span.action.to_string();
            }
            text.push_str(&cells.join(","));
            text.push('\n');
        }
        text
    }

    /// Reads what [`Self::to_csv`] writes, and compute-only files of `PyTorch`'s pipelining. Idle
    /// cells and spaces do not matter; stages lie on the rank in whose row they appear.
    ///
    /// # Errors
    ///
    /// A cell that is no compute action; whatever [`Self::new`] finds.
    pub fn from_csv(text: &str) -> Result<Self, ScheduleError> {
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        let mut ranks = Vec::new();
        for (row, line) in lines.enumerate() {
            let mut actions = Vec::new();
            for (column, cell) in line.split(',').map(str::trim).enumerate() {
                let placed = |source| {
                    let source = Box::new(source);
                    ScheduleError::Cell { row: row + 1, column: column + 1, source }
                };
                if cell.is_empty() {
                    continue;
                }
                let action: Action = cell.parse().map_err(placed)?;
                if !action.kind.computes() {
                    return Err(placed(ScheduleError::UnknownAction { text: cell.to_owned() }));
                }
                actions.push(action);
            }
            ranks.push(actions);
        }
        Self::new(ranks)
    }

    fn check_complete(&self) -> Result<(), ScheduleError> {
        let mut seen = BTreeSet::new();
        for (rank, actions) in self.ranks.iter().enumerate() {
            for action in actions {
                if !seen.insert(*action) {
                    return Err(ScheduleError::Twice { rank, action: *action });
                }
            }
        }
        for stage in 0..self.num_stages() {
            for microbatch in 0..self.num_microbatches {
                let action = |kind| Action::new(stage, kind, microbatch);
                let has = |kind| seen.contains(&action(kind));
                let missing = |kind| Err(ScheduleError::Missing { action: action(kind) });
                let (input, weight) =
                    (has(ActionKind::InputGradient), has(ActionKind::WeightGradient));
                if !has(ActionKind::Forward) {
                    return missing(ActionKind::Forward);
                }
                match (has(ActionKind::Backward), input, weight) {
                    (true, false, false) | (false, true, true) => {}
                    (false, false, false) => return missing(ActionKind::Backward),
                    (false, true, false) => return missing(ActionKind::WeightGradient),
                    (false, false, true) => return missing(ActionKind::InputGradient),
                    (true, _, _) => {
                        return Err(ScheduleError::WholeAndHalves { stage, microbatch });
                    }
                }
            }
        }
        Ok(())
    }
}

/// Finds the rank of each stage in the rows in which stages appear.
fn place_stages(ranks: &[Vec<Action>]) -> Result<Vec<usize>, ScheduleError> {
    let mut places = BTreeMap::new();
    for (rank, actions) in ranks.iter().enumerate() {
        for action in actions {
            let first = *places.entry(action.stage).or_insert(rank);
            if first != rank {
                return Err(ScheduleError::TwoRanks { stage: action.stage, first, second: rank });
            }
        }
    }
    let stages = places.last_key_value().map_or(0, |(stage, _)| stage + 1);
    if stages == 0 {
        return Err(ScheduleError::Empty);
    }
    let rank =
        |stage: usize| places.get(&stage).copied().ok_or(ScheduleError::NoRank { stage, stages });
    // Stages are numbered without gaps, so the first that is missing ends the search early even
    // where a file names a stage of a billion.
    (0..stages).map(rank).collect()
}
