//! What can be wrong with a schedule.

use super::Action;

/// A schedule that cannot be made or cannot run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScheduleError {
    /// A name that is no schedule.
    #[error("`{name}` is not a pipeline schedule: it must be one of {}", known.join(", "))]
    UnknownSchedule {
        /// The name as given.
        name: String,
        /// The names there are.
        known: Vec<&'static str>,
    },
    /// A size of zero.
    #[error("`{what}` is 0 but must be at least 1")]
    Zero {
        /// The size.
        what: &'static str,
    },
    /// A schedule too long to be made.
    #[error(
        "{ranks} ranks x {stages} stages x {microbatches} microbatches are more than the {most} passes that a schedule may have"
    )]
    TooLarge {
        /// Ranks of the pipeline.
        ranks: usize,
        /// Stages on each rank.
        stages: usize,
        /// Microbatches of a step.
        microbatches: usize,
        /// The largest product.
        most: usize,
    },
    /// A schedule whose number of stages per rank is fixed.
    #[error("schedule `{schedule}` holds {expected} on each rank but `virtual_stages` is {given}")]
    VirtualStages {
        /// The schedule.
        schedule: &'static str,
        /// How many stages it takes, in words.
        expected: &'static str,
        /// How many were asked for.
        given: usize,
    },
    /// Fewer microbatches than the schedule needs to fill the pipeline.
    #[error(
        "schedule `{schedule}` over {ranks} ranks needs at least {smallest} microbatches but gets {microbatches}"
    )]
    TooFewMicrobatches {
        /// The schedule.
        schedule: &'static str,
        /// Ranks of the pipeline.
        ranks: usize,
        /// Microbatches of a step.
        microbatches: usize,
        /// The smallest number that fits.
        smallest: usize,
    },
    /// Microbatches that an interleaved schedule cannot deal out in equal rounds.
    #[error(
        "schedule `{schedule}` deals {microbatches} microbatches in {rounds} rounds, which does not divide: {smaller} or {larger} would"
    )]
    UnequalRounds {
        /// The schedule.
        schedule: &'static str,
        /// Microbatches of a step.
        microbatches: usize,
        /// Rounds.
        rounds: usize,
        /// Nearest smaller number that divides.
        smaller: usize,
        /// Nearest larger number that divides.
        larger: usize,
    },
    /// A text that is no action.
    #[error("`{text}` is not a pipeline action such as `0F0`, `1I2` or `2SEND_F0`")]
    UnknownAction {
        /// The text.
        text: String,
    },
    /// A cell of a CSV that cannot be read.
    #[error("row {row}, column {column}")]
    Cell {
        /// Row, which is a rank, from 1.
        row: usize,
        /// Column from 1.
        column: usize,
        /// What is wrong with it.
        source: Box<ScheduleError>,
    },
    /// A schedule without any action.
    #[error("the schedule has no forward pass")]
    Empty,
    /// A stage that two ranks claim.
    #[error("stage {stage} is on rank {first} and on rank {second}")]
    TwoRanks {
        /// The stage.
        stage: usize,
        /// One rank.
        first: usize,
        /// The other.
        second: usize,
    },
    /// A stage that no rank holds although later stages exist.
    #[error("no rank holds stage {stage} of {stages}")]
    NoRank {
        /// The stage.
        stage: usize,
        /// Number of stages.
        stages: usize,
    },
    /// An action that is there twice.
    #[error("rank {rank} does `{action}` twice")]
    Twice {
        /// The rank.
        rank: usize,
        /// The action.
        action: Action,
    },
    /// An action that is missing.
    #[error(
        "`{action}` is missing: every stage needs one forward and one backward pass of every microbatch"
    )]
    Missing {
        /// The action, or the whole backward pass where its halves would do too.
        action: Action,
    },
    /// A backward pass that is there whole and in halves.
    #[error(
        "stage {stage} has `B` and `I` or `W` of microbatch {microbatch}: it is one or the other"
    )]
    WholeAndHalves {
        /// The stage.
        stage: usize,
        /// The microbatch.
        microbatch: usize,
    },
    /// An order in which ranks wait for each other for ever.
    #[error("the order deadlocks: {}", blocked.join(", "))]
    Deadlock {
        /// What each rank that does not get on waits for.
        blocked: Vec<String>,
    },
}
