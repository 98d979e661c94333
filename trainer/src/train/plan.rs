//! What a run will do, with every size concrete: the last thing that exists before ranks do.

use crate::callbacks::CallbacksConfig;
use crate::checkpoint::CheckpointConfig;
use crate::comm::{CommTimeouts, Reduction};
use crate::config::DeviceKind;
use crate::data::DataPlan;
use crate::fsdp::{ActivationCheckpointing, FullyShardConfig};
use crate::mesh::{AxisSet, DeviceMesh};
use crate::metrics::MetricsConfig;
use crate::optim::{GradScalerConfig, LrSchedulerConfig, OptimizerPlan};
use crate::tensor_parallel::TensorParallelOptions;

use super::{NonFinitePolicy, RunConfig};

/// How long a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunLength {
    /// Optimizer steps.
    Steps(u64),
    /// Passes over the training data.
    Epochs(u64),
}

/// Batch arithmetic and cadence of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainingPlan {
    /// How long the run is.
    pub length: RunLength,
    /// Sequences per optimizer step over all ranks.
    pub global_batch_size: usize,
    /// Sequences per forward pass of one data-parallel rank.
    pub micro_batch_size: usize,
    /// Forward and backward passes per optimizer step.
    pub gradient_accumulation_steps: usize,
    /// Tokens per sequence.
    pub sequence_length: usize,
    /// Gradient norm above which gradients are scaled down; 0 for never.
    pub max_grad_norm: f64,
    /// Steps between validations; 0 for none.
    pub val_every_n_steps: u64,
    /// Global batches per validation; 0 for all.
    pub val_steps: u64,
    /// Global validation batches before the first step.
    pub num_sanity_val_steps: u64,
    /// What happens when a number is not finite.
    pub on_nonfinite: NonFinitePolicy,
    /// Updates in a row that may be dropped for it; 0 for any number.
    pub max_consecutive_skips: u64,
}

/// A resolved run. Everything in it has been checked; building it touched no file, socket or
/// tensor.
#[derive(Debug, Clone)]
pub struct RunPlan {
    /// Name of the recipe.
    pub model: String,
    /// Name, seed and place of the run.
    pub run: RunConfig,
    /// Where ranks compute.
    pub device: DeviceKind,
    /// Mesh over all ranks.
    pub mesh: DeviceMesh,
    /// How matrices are split along `tp`.
    pub tensor_parallel: TensorParallelOptions,
    /// How units are sharded along `dp_shard` x `cp`, and in which types they compute and reduce.
    pub fully_shard: FullyShardConfig,
    /// Loss scaling; nothing where it is not needed.
    pub grad_scaler: Option<GradScalerConfig>,
    /// Which units compute their activations again.
    pub activation_checkpointing: ActivationCheckpointing,
    /// How long ranks wait for each other.
    pub timeouts: CommTimeouts,
    /// Who adds up the numbers of ranks in several processes.
    pub reduction: Reduction,
    /// Batch arithmetic and cadence.
    pub training: TrainingPlan,
    /// Optimizer settings.
    pub optimizer: OptimizerPlan,
    /// Learning-rate schedule; its length is fixed once the data is open.
    pub lr_scheduler: LrSchedulerConfig,
    /// Data and tokenizer.
    pub data: DataPlan,
    /// Cadence and start of checkpoints.
    pub checkpoint: CheckpointConfig,
    /// Sinks.
    pub metrics: MetricsConfig,
    /// Built-in callbacks.
    pub callbacks: CallbacksConfig,
    /// The configuration as it was resolved, in TOML, for records.
    pub config_text: String,
}

impl RunPlan {
    /// Returns the number of data-parallel ranks.
    pub fn dp_size(&self) -> usize {
        self.mesh.size(AxisSet::DP)
    }

    /// Returns the labels of one optimizer step when none is masked.
    pub fn tokens_per_step(&self) -> u64 {
        (self.training.global_batch_size as u64)
            .saturating_mul(self.training.sequence_length as u64)
    }
}
