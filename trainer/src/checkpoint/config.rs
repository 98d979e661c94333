//! The `[checkpoint]` table.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Selection, SelectionError};

/// Whether a run starts from its own earlier checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ResumeMode {
    /// Continues from the newest complete checkpoint of this run if there is one.
    #[default]
    Auto,
    /// Starts afresh; an existing checkpoint of this run is an error, so that nothing is
    /// overwritten.
    Never,
    /// Continues; having no checkpoint is an error.
    Must,
}

/// Part of a run that begins anew although the run continues.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum ResetPart {
    /// Moments, number of updates and loss scale. Algorithm and parameter groups may differ from the
    /// checkpoint's.
    Optimizer,
    /// Position in the data. The data, their order and the seed may differ from the checkpoint's.
    Data,
    /// Learning-rate schedule: it counts from the step the run continues from.
    Schedule,
}

/// When state is saved, how much of it is kept, and where a run starts from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[expect(clippy::struct_excessive_bools, reason = "independent switches of the TOML table")]
pub struct CheckpointConfig {
    /// Saves checkpoints. Without it nothing is written, also not at the end.
    pub enable: bool,
    /// Saves every this many steps; 0 only at the end.
    pub every_n_steps: u64,
    /// Complete checkpoints kept, newest first; 0 keeps all.
    pub keep_latest: usize,
    /// Writes while training goes on, from a copy of the state in host memory. At most one checkpoint
    /// is being written; it counts from the first step after all ranks have written theirs.
    pub background: bool,
    /// Saves after the last step.
    pub save_last: bool,
    /// Saves when the run is interrupted (Ctrl-C, SIGTERM).
    pub save_on_interrupt: bool,
    /// Whether the run starts from its own earlier checkpoints.
    pub resume: ResumeMode,
    /// Step to resume from instead of the newest. It begins a branch: newer checkpoints are set
    /// aside. It holds for one start: a restart of the same command goes on with the branch.
    pub resume_step: Option<u64>,
    /// Parts that begin anew when the run continues from a checkpoint. It holds for one start: a
    /// restart of the same command goes on with the state it saved.
    pub reset: Vec<ResetPart>,
    /// Name of the branch that `resume_step` or `reset` begins. A new name begins it again, where the
    /// same request would go on with what its first start saved.
    pub branch: Option<String>,
    /// Whose weights alone a fresh run starts from: a checkpoint, a run's folder or its folder of
    /// checkpoints (the newest complete one is taken), or a Hugging Face folder. Its model must be
    /// the run's. Ignored, and said so, when the run resumes.
    pub init_from: Option<PathBuf>,
    /// Regular expressions searched in parameter paths: only parameters that match one are loaded
    /// by `init_from` or `model.hf_dir`, the others are made from the seed. With a pattern the
    /// source may hold another model; what is loaded must still fit. Default: all.
    pub init_include: Vec<String>,
    /// Regular expressions searched in parameter paths: parameters that match one are not loaded by
    /// `init_from` or `model.hf_dir`. A pattern that matches nothing is an error.
    pub init_exclude: Vec<String>,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self {
            enable: false,
            every_n_steps: 0,
            keep_latest: 3,
            background: true,
            save_last: true,
            save_on_interrupt: true,
            resume: ResumeMode::Auto,
            resume_step: None,
            reset: Vec::new(),
            branch: None,
            init_from: None,
            init_include: Vec::new(),
            init_exclude: Vec::new(),
        }
    }
}

impl CheckpointConfig {
    /// Returns which parameters first weights are loaded for.
    ///
    /// # Errors
    ///
    /// A pattern that is not a regular expression.
    pub fn selection(&self) -> Result<Selection, SelectionError> {
        Selection::new(&self.init_include, &self.init_exclude)
    }
}
