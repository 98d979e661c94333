//! Why a run cannot be built or cannot go on.

use std::path::PathBuf;

use super::Differences;
use crate::callbacks::CallbackError;
use crate::checkpoint::{CheckpointError, LISTED, ResetPart, SelectionError, listed};
use crate::comm::CommError;
use crate::data::DataError;
use crate::metrics::format::bytes;
use crate::optim::OptimError;
use crate::run_folder::RunFolderError;

use super::HostBytes;

/// An error of user code; it is shown with the hook that returned it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What hooks return.
pub type Result<T, E = BoxError> = std::result::Result<T, E>;

/// What a recipe's check says about certain keys of the configuration; it is shown with the lines
/// that hold them.
#[derive(Debug, thiserror::Error)]
#[error("{source}")]
pub struct RefusedKeys {
    /// The keys in full, the one to look at first in front.
    pub keys: Vec<String>,
    /// What is wrong with them.
    pub source: BoxError,
}

impl RefusedKeys {
    /// Says what is wrong with `keys`.
    pub fn new(keys: impl IntoIterator<Item = &'static str>, source: impl Into<BoxError>) -> Self {
        Self { keys: keys.into_iter().map(str::to_owned).collect(), source: source.into() }
    }
}

/// Why a rank ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A hook of the recipe failed.
    #[error("`{hook}` failed")]
    Hook {
        /// Name of the hook.
        hook: &'static str,
        /// What it returned.
        #[source]
        source: BoxError,
    },
    /// Thread ranks that need more memory than this machine has.
    #[error(
        "the {num_ranks} ranks of this run need at least {} on this machine, which has {}: {} for weights, gradients and optimizer state, {} for the tokens of a step, {} for what operations keep for the backward pass, {} for the ranks themselves",
        bytes(needs.total()),
        bytes(*available),
        bytes(needs.state),
        bytes(needs.tokens),
        bytes(needs.activations),
        bytes(needs.ranks)
    )]
    Memory {
        /// Ranks of this machine.
        num_ranks: usize,
        /// What they need.
        needs: HostBytes,
        /// Bytes of memory of this machine, swap included.
        available: u64,
    },
    /// There is no GPU for a rank.
    #[error("rank {rank} finds no GPU on this machine; `dream-train doctor` says what is missing")]
    NoGpu {
        /// The rank.
        rank: usize,
    },
    /// The mesh needs a setup trait that the recipe lacks.
    #[error(
        "the mesh {mesh} needs the setup trait `{capability}`, which this recipe does not have"
    )]
    MissingCapability {
        /// Mesh in words.
        mesh: String,
        /// Name of the trait.
        capability: &'static str,
    },
    /// A parameter that two optimizers claim.
    #[error(
        "parameter `{path}` belongs to the optimizers `{first}` and `{second}`, but each parameter takes exactly one"
    )]
    TwoOptimizers {
        /// Parameter path.
        path: String,
        /// First optimizer.
        first: String,
        /// Second optimizer.
        second: String,
    },
    /// An optimizer that a step names but the recipe does not list.
    #[error("there is no optimizer `{name}`; the recipe has {known}")]
    UnknownOptimizer {
        /// Name asked for.
        name: String,
        /// Names there are.
        known: String,
    },
    /// An optimizer without parameters.
    #[error("optimizer `{name}` has no trainable parameter below `{prefix}`")]
    EmptyOptimizer {
        /// Name of the optimizer.
        name: String,
        /// Path prefix of its parameters.
        prefix: String,
    },
    /// An optimizer for hidden matrices, and a recipe that names none.
    #[error(
        "`optimizer.name` is `muon`, which needs hidden matrices, but the recipe names none (`ModelSetup::is_hidden_matrix`)"
    )]
    NoHiddenMatrix,
    /// A number that is not finite.
    #[error("{what} is {value} at step {step}, first seen by {place}")]
    NonFinite {
        /// Which number.
        what: &'static str,
        /// Its value.
        value: f64,
        /// Optimizer step, from 1.
        step: u64,
        /// Rank and coordinate.
        place: String,
    },
    /// More updates in a row were dropped than `training_parameters.max_consecutive_skips` allows.
    #[error(
        "the updates of {limit} steps in a row were dropped, and so would be that of step {step}, because a number was not finite: `training_parameters.max_consecutive_skips` is {limit}"
    )]
    TooManySkips {
        /// Optimizer step, from 1.
        step: u64,
        /// Updates in a row that may be dropped.
        limit: u64,
    },
    /// A step in which no label counted.
    #[error("step {step} has no label that counts, so its loss has no meaning")]
    NoTargets {
        /// Optimizer step, from 1.
        step: u64,
    },
    /// A checkpoint tensor that does not fit the model.
    #[error("checkpoint tensor `{key}` has shape {found:?} but the model needs {expected:?}")]
    WeightShape {
        /// Key or parameter path.
        key: String,
        /// Shape found.
        found: Vec<usize>,
        /// Shape needed.
        expected: Vec<usize>,
    },
    /// The parameters of the model are not those of a source of weights.
    #[error(
        "{source_name} do not fit the model: without a value {}; without a parameter {}",
        listed(missing, LISTED),
        listed(unexpected, LISTED)
    )]
    WeightsDiffer {
        /// Source in words.
        source_name: String,
        /// Parameters that the source has no value for.
        missing: Vec<String>,
        /// Tensors of the source that belong to no parameter.
        unexpected: Vec<String>,
    },
    /// First weights come from another model.
    #[error("{source_name} are those of another model:\n{differences}")]
    OtherModel {
        /// Source in words.
        source_name: String,
        /// What the models do not have in common.
        differences: Differences,
    },
    /// A checkpoint that belongs to another run.
    #[error("checkpoint `{}` belongs to another run:\n{differences}", path.display())]
    OtherRun {
        /// Checkpoint folder.
        path: PathBuf,
        /// What makes it another run.
        differences: Differences,
        /// Parts that `checkpoint.reset` would begin anew so that nothing is refused; empty if no
        /// reset helps.
        resettable: Vec<ResetPart>,
    },
    /// A folder without weights.
    #[error(
        "`{}` is no checkpoint, holds no complete one, and is no Hugging Face folder with a `config.json`",
        path.display()
    )]
    NoWeights {
        /// The folder.
        path: PathBuf,
    },
    /// Patterns that choose weights, and no weights to choose from.
    #[error(
        "`{key}` chooses among weights, but neither `checkpoint.init_from` nor `model.hf_dir` names any"
    )]
    NothingToSelect {
        /// Key of the patterns.
        key: &'static str,
    },
    /// A pattern that chooses no weights.
    #[error(transparent)]
    Selection(#[from] SelectionError),
    /// A saved configuration that cannot be read.
    #[error("the configuration saved in `{}` cannot be read", path.display())]
    SavedConfig {
        /// Folder of the checkpoint or the run.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: BoxError,
    },
    /// A saved run state this version cannot read.
    #[error("the saved state of {path} cannot be used")]
    SavedState {
        /// Checkpoint folder.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// Resuming was demanded but there is nothing to resume from.
    #[error(
        "`checkpoint.resume` is `must` but {root} holds no complete checkpoint{}",
        damaged.iter().flat_map(|cause| ["; ", cause.as_str()]).collect::<String>()
    )]
    NothingToResume {
        /// Folder searched.
        root: PathBuf,
        /// Checkpoints in it that are damaged, and how.
        damaged: Vec<String>,
    },
    /// A fresh start was demanded over existing checkpoints.
    #[error(
        "`checkpoint.resume` is `never` but {root} already holds a checkpoint of step {step}; choose another `run.experiment` or remove it"
    )]
    WouldOverwrite {
        /// Folder searched.
        root: PathBuf,
        /// Newest step in it.
        step: u64,
    },
    /// A file or folder that cannot be made.
    #[error("cannot write {path}")]
    Output {
        /// What was to be written.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Another run has the folder, or it is gone.
    #[error(transparent)]
    Folder(#[from] RunFolderError),
    /// Something failed in the middle of a step.
    #[error("step {step}, {phase}")]
    Step {
        /// Optimizer step, from 1.
        step: u64,
        /// What was being done.
        phase: &'static str,
        /// What failed.
        #[source]
        source: Box<TrainError>,
    },
    /// Ranks could not communicate.
    #[error(transparent)]
    Comm(#[from] CommError),
    /// Data could not be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// An optimizer or schedule is wrong.
    #[error(transparent)]
    Optim(#[from] OptimError),
    /// A checkpoint could not be read or written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A callback failed.
    #[error(transparent)]
    Callback(#[from] CallbackError),
}

impl TrainError {
    /// Wraps what a hook returned, keeping one of our own errors as it is.
    pub(crate) fn hook(hook: &'static str, error: BoxError) -> Self {
        match error.downcast::<Self>() {
            Ok(own) => *own,
            Err(source) => Self::Hook { hook, source },
        }
    }

    /// Says what would help, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self.root() {
            Self::OtherRun { resettable, .. } if resettable.is_empty() => Some(
                "set the keys back, or start another run under a new `run.experiment`; `checkpoint.init_from` takes the weights of a checkpoint of the same model".into(),
            ),
            Self::OtherRun { resettable, .. } => Some(format!(
                "set the keys back, or begin that anew in this run by `checkpoint.reset = {}`; a new `run.experiment` starts another run, which may take these weights by `checkpoint.init_from`",
                serde_json::to_string(resettable).ok()?
            )),
            Self::OtherModel { .. } => Some(
                "set `[model]` as the weights need it; to take a part of another model, choose it by `checkpoint.init_include` or `checkpoint.init_exclude`".into(),
            ),
            Self::WeightsDiffer { .. } => Some(
                "for first weights `checkpoint.init_include` and `checkpoint.init_exclude` choose a part".into(),
            ),
            _ => None,
        }
    }

    /// Returns the error at the bottom of [`TrainError::Step`].
    pub fn root(&self) -> &Self {
        match self {
            Self::Step { source, .. } => source.root(),
            other => other,
        }
    }
}
