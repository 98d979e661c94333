//! What a case found.

use std::fmt::{self, Display};

/// Kind of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    /// A process did not end in time.
    Hang,
    /// A panic, an abort, or the text of one.
    Panic,
    /// An exit code that this case does not allow.
    ExitCode,
    /// A step without its row in `metrics.jsonl`, or with several.
    Rows,
    /// Numbers or tensors that differ from those of the undisturbed run.
    Bits,
    /// A process outlived its run.
    Leftover,
    /// Something was lost and nobody said so.
    Untold,
    /// The campaign itself could not do something.
    Campaign,
}

/// A failure and what was seen.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) fault: Fault,
    pub(super) text: String,
}

impl Fault {
    /// Returns a failure of this kind.
    pub(super) fn with(self, text: impl Into<String>) -> Failure {
        Failure { fault: self, text: text.into() }
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Hang => "hang",
            Self::Panic => "panic",
            Self::ExitCode => "exit code",
            Self::Rows => "rows",
            Self::Bits => "bits",
            Self::Leftover => "process left",
            Self::Untold => "untold",
            Self::Campaign => "campaign",
        })
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.fault, self.text)
    }
}

/// Explains an error of the campaign's own doing.
pub(super) fn broken<E: Display>(what: impl Display) -> impl FnOnce(E) -> Failure {
    move |error| Fault::Campaign.with(format!("{what}: {error}"))
}
