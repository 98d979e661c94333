//! [`FsdpError`]: why a model cannot be sharded.

use crate::nn::UnknownParam;

/// Describes why a model cannot be sharded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FsdpError {
    /// A parameter was not made from the run's scope.
    #[error("a parameter of unit `{unit}` has no path")]
    Unknown {
        /// The unit.
        unit: String,
        /// What is wrong with it.
        #[source]
        source: UnknownParam,
    },
    /// A parameter is in two units.
    #[error("parameter `{path}` is in two units, `{first}` and `{second}`")]
    TwoUnits {
        /// The parameter.
        path: String,
        /// The unit that had it first.
        first: String,
        /// The unit that wanted it too.
        second: String,
    },
    /// An element type that has no meaning here.
    #[error("`{key}` is {found}, but must be a float type of 16 or 32 bits")]
    Dtype {
        /// The key.
        key: &'static str,
        /// What it is.
        found: String,
    },
    /// A number out of range.
    #[error("`{key}` is {found}, but must be {allowed}")]
    OutOfRange {
        /// The key.
        key: &'static str,
        /// What it is.
        found: usize,
        /// What it may be.
        allowed: &'static str,
    },
}
