//! What a configuration resolves to: concrete numbers only.

use std::time::Duration;

use super::{
    device::{ContextParameters, DeviceKind, FloatType, PipelineSchedule, RankKind},
    model::ModelTable,
};
use crate::{
    callbacks::CallbacksConfig,
    checkpoint::CheckpointConfig,
    comm::Reduction,
    data::DataPlan,
    fsdp::{ActivationCheckpointing, Reshard},
    mesh::DeviceMesh,
    metrics::MetricsConfig,
    optim::{GradScalerConfig, LrSchedulerConfig, OptimizerPlan},
    train::{NonFinitePolicy, RunConfig, RunLength},
};

/// A configuration in concrete numbers: no `"auto"`, nothing left to derive, every check of the
/// tables passed.
#[derive(Debug, Clone)]
pub struct ResolvedConfig {
    /// Name and seed of the run.
    pub run: RunConfig,
    /// Ranks, mesh and precision.
    pub device: ResolvedDevice,
    /// Length of the run and size of its steps.
    pub training: ResolvedTraining,
    /// The recipe and its keys.
    pub model: ModelTable,
    /// The optimizer, defaults filled in and patterns compiled.
    pub optimizer: OptimizerPlan,
    /// The learning rate's shape; it needs the number of steps, which with `epochs` depends on the
    /// data.
    pub lr_scheduler: LrSchedulerConfig,
    /// The data, defaults filled in.
    pub data: DataPlan,
    /// When state is saved and where a run starts from.
    pub checkpoint: CheckpointConfig,
    /// Where numbers go.
    pub metrics: MetricsConfig,
    /// Switches of the built-in callbacks.
    pub callbacks: CallbacksConfig,
}

/// Ranks, mesh and precision in concrete numbers.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "independent switches of the TOML table")]
pub struct ResolvedDevice {
    /// Where tensors live.
    pub kind: DeviceKind,
    /// The mesh of all ranks.
    pub mesh: DeviceMesh,
    /// Whether an outside launcher started the ranks.
    pub is_launched: bool,
    /// What the ranks are otherwise; nothing where the build and the machine decide.
    pub ranks: Option<RankKind>,
    /// Format the model computes in.
    pub param_dtype: FloatType,
    /// Format gradients are reduced in.
    pub reduce_dtype: FloatType,
    /// Loss scaling; nothing where it is not needed.
    pub grad_scaler: Option<GradScalerConfig>,
    /// Whether the loss is computed on vocabulary shards; false without tensor parallelism.
    pub loss_parallel: bool,
    /// Whether activations are sharded along the sequence; false without tensor parallelism.
    pub sequence_parallel: bool,
    /// Whether tensor-parallel communication overlaps with matrix products.
    pub async_tensor_parallel: bool,
    /// What of a block's forward pass is kept.
    pub activation_checkpointing: ActivationCheckpointing,
    /// What each rank of `dp_shard` holds only a part of.
    pub reshard: Reshard,
    /// Whether whole gradients are summed over microbatches and reduced once.
    pub accumulate_whole_gradients: bool,
    /// Whether sharded state is kept in host memory.
    pub cpu_offload: bool,
    /// Whether elementwise operations are fused.
    pub compile: bool,
    /// Longest wait for all ranks to start.
    pub init_timeout: Duration,
    /// Longest wait of a collective.
    pub timeout: Duration,
    /// Who adds up the numbers of ranks in several processes.
    pub reduction: Reduction,
    /// The pipeline; nothing with a single stage.
    pub pipeline: Option<ResolvedPipeline>,
    /// How the sequence is shared; matters with context parallelism.
    pub context: ContextParameters,
}

/// Pipeline settings in concrete numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedPipeline {
    /// Order of forward and backward passes.
    pub schedule: PipelineSchedule,
    /// Parts a micro batch is cut into.
    pub num_microbatches: usize,
}

/// Length of the run and size of its steps in concrete numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct ResolvedTraining {
    /// How long the run is.
    pub length: RunLength,
    /// Sequences per optimizer step; `micro_batch_size` x `gradient_accumulation_steps` x
    /// data-parallel ranks.
    pub global_batch_size: usize,
    /// Sequences per forward pass of one data-parallel rank.
    pub micro_batch_size: usize,
    /// Passes per optimizer step.
    pub gradient_accumulation_steps: usize,
    /// Tokens per sequence.
    pub sequence_length: usize,
    /// Norm above which gradients are scaled down; nothing when clipping is off.
    pub max_grad_norm: Option<f64>,
    /// Steps between validations; nothing when there are none.
    pub val_every_n_steps: Option<u64>,
    /// Global batches per validation; nothing for the whole split.
    pub val_steps: Option<u64>,
    /// Global validation batches before the first step.
    pub num_sanity_val_steps: u64,
    /// What happens when a loss or a gradient norm is not finite.
    pub on_nonfinite: NonFinitePolicy,
    /// Updates in a row that may be dropped for it; 0 for any number.
    pub max_consecutive_skips: u64,
}

impl ResolvedTraining {
    /// Returns the tokens of one optimizer step over all ranks.
    pub fn tokens_per_step(&self) -> usize {
        self.global_batch_size.saturating_mul(self.sequence_length)
    }
}
