//! What a run is called and how long and how large its steps are: the `[run]` and
//! `[training_parameters]` tables.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Names a run and fixes its randomness.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RunConfig {
    /// Project the run belongs to; first folder below `output_dir`.
    pub project: String,
    /// Group of comparable runs; second folder below `output_dir`.
    pub group: String,
    /// Name of this run; third folder below `output_dir`. Repeating a command with the same name
    /// continues the run. Default: the name of the last `--config` file without its extension.
    pub experiment: String,
    /// Seed of weights and data order. The same seed gives the same global weights and batches on
    /// every mesh.
    pub seed: u64,
    /// Folder that receives `project/group/experiment` with metrics, logs and checkpoints.
    pub output_dir: PathBuf,
}

impl Default for RunConfig {
    fn default() -> Self {
        Self {
            project: "dream-train".into(),
            group: "default".into(),
            experiment: "default".into(),
            seed: 42,
            output_dir: "outputs".into(),
        }
    }
}

impl RunConfig {
    /// Returns the folder of this run, `output_dir/project/group/experiment`.
    pub fn directory(&self) -> PathBuf {
        self.output_dir.join(&self.project).join(&self.group).join(&self.experiment)
    }
}

/// What happens when a loss or a gradient norm is not finite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NonFinitePolicy {
    /// Ends the run on every rank, naming the step and the first rank that saw it.
    #[default]
    Stop,
    /// Drops the update of that step on every rank, counts it and goes on, up to
    /// `max_consecutive_skips` times in a row.
    Skip,
}

/// How many steps are taken, over how many tokens each, and when validation runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TrainingParameters {
    /// Optimizer steps to take. Exactly one of `steps` and `epochs` is given.
    #[schemars(range(min = 1))]
    pub steps: Option<u64>,
    /// Passes over the training data to take. Exactly one of `steps` and `epochs` is given.
    #[schemars(range(min = 1))]
    pub epochs: Option<u64>,
    /// Sequences per optimizer step, over all ranks and accumulation steps. It does not change with
    /// the mesh.
    #[schemars(range(min = 1))]
    pub global_batch_size: usize,
    /// Sequences per forward pass of one data-parallel rank. Default: `global_batch_size` /
    /// data-parallel ranks / `gradient_accumulation_steps`.
    #[schemars(range(min = 1))]
    pub micro_batch_size: Option<usize>,
    /// Forward and backward passes per optimizer step. Default: `global_batch_size` /
    /// (`micro_batch_size` x data-parallel ranks).
    #[schemars(range(min = 1))]
    pub gradient_accumulation_steps: Option<usize>,
    /// Tokens per sequence.
    #[schemars(range(min = 1))]
    pub sequence_length: usize,
    /// Global gradient norm above which gradients are scaled down to it; 0 turns clipping off. The
    /// norm before clipping is what metrics show.
    #[schemars(range(min = 0.0))]
    pub max_grad_norm: f64,
    /// Runs validation every this many steps; 0 never.
    pub val_every_n_steps: u64,
    /// Global batches per validation; 0 takes the whole validation split.
    pub val_steps: u64,
    /// Global validation batches run before the first step to find errors early; 0 for none.
    pub num_sanity_val_steps: u64,
    /// What happens when a loss or a gradient norm is not finite.
    pub on_nonfinite: NonFinitePolicy,
    /// Updates in a row that `on_nonfinite = "skip"` drops before it ends the run with exit code 4;
    /// 0 drops any number. Overflows of `f16` that a lower loss scale may help against do not count.
    pub max_consecutive_skips: u64,
}

impl Default for TrainingParameters {
    fn default() -> Self {
        Self {
            steps: None,
            epochs: None,
            global_batch_size: 8,
            micro_batch_size: None,
            gradient_accumulation_steps: None,
            sequence_length: 256,
            max_grad_norm: 1.0,
            val_every_n_steps: 0,
            val_steps: 0,
            num_sanity_val_steps: 0,
            on_nonfinite: NonFinitePolicy::Stop,
            max_consecutive_skips: 10,
        }
    }
}
