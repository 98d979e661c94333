//! What can be wrong with an optimizer or a schedule.

/// An optimizer or schedule that cannot be built or restored.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum OptimError {
    /// A key that the chosen algorithm does not have.
    #[error("`{key}` belongs to {belongs_to}, not to `{chosen}`")]
    KeyOfAnother {
        /// Dotted key.
        key: &'static str,
        /// Algorithms that have the key.
        belongs_to: &'static str,
        /// Algorithm that was chosen.
        chosen: &'static str,
    },
    /// A number outside its range.
    #[error("`{key}` is {value} but must be {allowed}")]
    OutOfRange {
        /// Dotted key.
        key: String,
        /// Value given.
        value: f64,
        /// Range in words.
        allowed: &'static str,
    },
    /// A pattern that is not a regular expression.
    #[error(
        "pattern `{pattern}` of `optimizer.param_groups[{index}]` is not a regular expression: {reason}"
    )]
    BadPattern {
        /// Position of the group.
        index: usize,
        /// Pattern given.
        pattern: String,
        /// What the parser said, in one line.
        reason: String,
    },
    /// A pattern that no parameter matches.
    #[error("pattern `{pattern}` of `optimizer.param_groups[{index}]` matches no parameter")]
    UnusedPattern {
        /// Position of the group.
        index: usize,
        /// Pattern given.
        pattern: String,
    },
    /// A schedule that is longer in warm-up than in total.
    #[error("`lr_scheduler.warmup_steps` is {warmup} but the schedule has only {total} steps")]
    WarmupTooLong {
        /// Steps of warm-up.
        warmup: u64,
        /// Steps of the schedule.
        total: u64,
    },
    /// A saved state that does not fit the parameter.
    #[error("saved optimizer state `{key}` has {found} elements but `{path}` has {expected}")]
    StateSize {
        /// Name of the state.
        key: String,
        /// Parameter path.
        path: String,
        /// Elements found.
        found: usize,
        /// Elements expected.
        expected: usize,
    },
    /// A saved state that is missing.
    #[error("saved optimizer state `{key}` of `{path}` is missing")]
    StateMissing {
        /// Name of the state.
        key: String,
        /// Parameter path.
        path: String,
    },
}
