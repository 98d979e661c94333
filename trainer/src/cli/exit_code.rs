//! Exit codes, and the kind of each error.

use std::process::ExitCode;

use crate::data::DataError;
use crate::metrics::SinkError;
use crate::train::TrainError;

/// What the program's exit status says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Everything went well.
    Ok = 0,
    /// Something unexpected, a panic for example.
    Unexpected = 1,
    /// The command line or the configuration is wrong; nothing was started.
    Usage = 2,
    /// Devices, files or ranks: the surroundings do not allow the run, or a rank failed.
    Environment = 3,
    /// A loss or a gradient norm was not finite.
    Numerics = 4,
    /// A checkpoint cannot be read or written.
    Checkpoint = 5,
    /// Data cannot be read or does not fit.
    Data = 6,
    /// The run was interrupted and ended cleanly.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl Exit {
    /// Returns the code of a failed run.
    pub fn of(error: &TrainError) -> Self {
        if cannot_start(error.root()) {
            return Self::Environment;
        }
        match error.root() {
            TrainError::NonFinite { .. } | TrainError::TooManySkips { .. } => Self::Numerics,
            TrainError::Checkpoint(_)
            | TrainError::WeightShape { .. }
            | TrainError::WeightsDiffer { .. }
            | TrainError::OtherModel { .. }
            | TrainError::OtherRun { .. }
            | TrainError::NoWeights { .. }
            | TrainError::SavedConfig { .. }
            | TrainError::SavedState { .. }
            | TrainError::NothingToResume { .. }
            | TrainError::WouldOverwrite { .. }
            | TrainError::Hook {
                hook: "open weights" | "architecture" | "hugging_face_weights" | "weights",
                ..
            } => Self::Checkpoint,
            TrainError::Data(_)
            | TrainError::NoTargets { .. }
            | TrainError::Hook {
                hook:
                    "open data"
                    | "identify data"
                    | "read data"
                    | "read validation data"
                    | "restore data",
                ..
            } => Self::Data,
            TrainError::Comm(_)
            | TrainError::Folder(_)
            | TrainError::Memory { .. }
            | TrainError::Output { .. }
            | TrainError::NoGpu { .. } => Self::Environment,
            // Callbacks fail for reasons of their own, but files that cannot be made are surroundings.
            TrainError::Callback(error) if error.source.is::<SinkError>() => Self::Environment,
            TrainError::MissingCapability { .. }
            | TrainError::TwoOptimizers { .. }
            | TrainError::UnknownOptimizer { .. }
            | TrainError::EmptyOptimizer { .. }
            | TrainError::NoHiddenMatrix
            | TrainError::NothingToSelect { .. }
            | TrainError::Selection(_)
            | TrainError::Optim(_) => Self::Usage,
            TrainError::Hook { .. } | TrainError::Step { .. } | TrainError::Callback(_) => {
                Self::Unexpected
            }
        }
    }
}

/// Tells whether the system gave no thread.
fn cannot_start(error: &TrainError) -> bool {
    let cause = match error {
        TrainError::Data(error) => Some(error),
        TrainError::Hook { source, .. } => source.downcast_ref(),
        _ => None,
    };
    matches!(cause, Some(DataError::StartPrefetch { .. }))
}
