//! The `[device_parameters]` table: ranks, how the model is split over them, and in which precision
//! it computes.

use std::fmt;

use burn::tensor::DType;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::comm::Reduction;
use crate::fsdp::{self, Reshard};
use crate::mesh::{Degree, Degrees, MeshOrder};
use crate::optim::GradScalerConfig;

/// Named default for the degrees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// Every degree 1.
    SingleDevice,
    /// `dp_replicate = "auto"`: a whole copy of the model on every rank.
    Ddp,
    /// `dp_shard = "auto"`: parameters, gradients and optimizer state sharded over all ranks.
    Fsdp,
    /// `dp_replicate = "auto"` with `dp_shard` given: sharded within groups, replicated across
    /// them.
    Hsdp,
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SingleDevice => "single_device",
            Self::Ddp => "ddp",
            Self::Fsdp => "fsdp",
            Self::Hsdp => "hsdp",
        })
    }
}

/// Where tensors live.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum DeviceKind {
    /// The processor. Ranks are threads, or the processes of an MPI launcher.
    #[default]
    Cpu,
    /// The GPU that WebGPU chooses, shared by the ranks of a process; needs a build with the feature
    /// `wgpu`. For tests and small models: it computes in `f32` only.
    Wgpu,
    /// An NVIDIA GPU for each rank; needs a build with the feature `cuda`. Ranks are processes that
    /// communicate over NCCL, or threads.
    Cuda,
}

impl DeviceKind {
    /// Returns the feature with which a build has the device.
    pub fn feature(self) -> &'static str {
        match self {
            Self::Cpu => "default",
            Self::Wgpu => "wgpu",
            Self::Cuda => "cuda",
        }
    }

    /// Returns whether this build has the device.
    pub fn is_built(self) -> bool {
        match self {
            Self::Cpu => true,
            Self::Wgpu => cfg!(feature = "wgpu"),
            Self::Cuda => cfg!(feature = "cuda"),
        }
    }
}

/// What the ranks of a run are that no launcher started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RankKind {
    /// Threads of this process, which hand each other tensors.
    Threads,
    /// Processes of this machine, one for each rank, started and supervised by this one; `cuda` only.
    Processes,
}

/// Format of floating-point numbers.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum FloatType {
    /// 32 bits, IEEE single precision.
    #[default]
    F32,
    /// 16 bits, the range of `f32` with 8 bits of precision.
    Bf16,
    /// 16 bits, IEEE half precision.
    F16,
}

impl FloatType {
    /// Returns the element type of tensors.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
            Self::F16 => DType::F16,
        }
    }
}

/// What of a block's forward pass is kept for its backward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ActivationCheckpointing {
    /// Everything is kept.
    #[default]
    None,
    /// Only the inputs of a block are kept; it runs again during the backward pass (Chen et al.,
    /// arXiv:1604.06174).
    Full,
    /// Results of matrix products and fused operations are kept; cheap ones are computed again.
    Selective,
}

/// Waiting times of collectives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CommParameters {
    /// Seconds a rank waits for the others to start before it reports who is missing.
    #[schemars(range(min = 1))]
    pub init_timeout_secs: u64,
    /// Seconds a collective waits for its group before it reports who is missing.
    #[schemars(range(min = 1))]
    pub timeout_secs: u64,
    /// Who adds up the numbers when ranks are processes on CPUs: `member_order`, bit for bit what
    /// thread ranks compute, or `library`, the MPI library in an order of its own. Thread ranks
    /// always add in the order of the members, NCCL adds tensors of GPUs in its own.
    pub reduction: Reduction,
}

impl Default for CommParameters {
    fn default() -> Self {
        Self { init_timeout_secs: 300, timeout_secs: 100, reduction: Reduction::MemberOrder }
    }
}

/// Order in which a pipeline stage runs forward and backward passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum PipelineSchedule {
    /// All forward passes, then all backward passes (Huang et al., arXiv:1811.06965).
    #[serde(rename = "gpipe")]
    Gpipe,
    /// One forward, one backward, so that fewer activations are alive (Narayanan et al.,
    /// arXiv:1806.03377).
    #[default]
    #[serde(rename = "1f1b")]
    OneForwardOneBackward,
    /// `1f1b` with several stages on each rank (Narayanan et al., arXiv:2104.04473).
    #[serde(rename = "interleaved_1f1b")]
    InterleavedOneForwardOneBackward,
}

/// Settings of pipeline parallelism; they matter when `pipeline_parallel` is above 1.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PipelineParameters {
    /// Order of forward and backward passes.
    pub schedule: PipelineSchedule,
    /// Parts a micro batch is cut into; it must divide `micro_batch_size`. Default:
    /// `micro_batch_size`.
    #[schemars(range(min = 1))]
    pub num_microbatches: Option<usize>,
}

/// How attention reaches the keys and values of other sequence shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ContextMethod {
    /// Keys and values travel around the group while attention computes (Liu et al.,
    /// arXiv:2310.01889).
    #[default]
    Ring,
    /// Keys and values of the whole sequence are gathered first.
    AllGather,
}

/// How a sequence is dealt out, so that causal attention costs every rank the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LoadBalance {
    /// Each rank gets one early and one late chunk; the sequence length must be divisible by 2 x
    /// `context_parallel`.
    #[default]
    Zigzag,
    /// Contiguous shards; later ranks compute more.
    None,
}

/// Settings of context parallelism; they matter when `context_parallel` is above 1.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ContextParameters {
    /// How keys and values reach the other ranks.
    pub method: ContextMethod,
    /// How the sequence is dealt out.
    pub load_balance: LoadBalance,
}

/// Chooses the ranks, the mesh they form and how the model uses it.
///
/// The product of the five degrees is the number of ranks. At most one degree is `"auto"`: it takes
/// what the others leave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[expect(clippy::struct_excessive_bools, reason = "independent switches of the TOML table")]
pub struct DeviceParameters {
    /// Default for the degrees; a degree given beside it wins. Default: every degree 1.
    pub preset: Option<Preset>,
    /// Where tensors live.
    pub device: DeviceKind,
    /// Number of ranks: those started here, or the processes a launcher started, of which another
    /// number is an error. Default: `"auto"`, the ranks a launcher started; else with `cuda` and a
    /// degree that is `"auto"` the GPUs of this machine; else 1.
    pub world_size: Option<Degree>,
    /// What the ranks are when no launcher started them: `threads` of this process, or `processes` of
    /// this machine that communicate over NCCL. Default: `processes` with `cuda` and more than one
    /// rank where NCCL is found, otherwise `threads`.
    pub ranks: Option<RankKind>,
    /// Whole copies of the model that share the global batch.
    pub dp_replicate: Degree,
    /// Ranks that share one copy of parameters, gradients and optimizer state, and split the batch
    /// (FSDP).
    pub dp_shard: Degree,
    /// What each rank of `dp_shard` holds only a part of: `optimizer`, `gradients` or `parameters`
    /// (`ZeRO` 1, 2 and 3); matters when `dp_shard` is above 1.
    pub reshard: Reshard,
    /// With `gradient_accumulation_steps` above 1, keeps whole gradients until the last microbatch and
    /// reduces them once per step instead of once per microbatch: less communication for more
    /// memory. `reshard = "optimizer"` does so in any case; matters when `dp_shard` is above 1.
    pub accumulate_whole_gradients: bool,
    /// Ranks that share a sequence.
    pub context_parallel: Degree,
    /// Ranks that share each weight matrix.
    pub tensor_parallel: Degree,
    /// Stages the layers are split into.
    pub pipeline_parallel: Degree,
    /// Mesh axes from outer to inner: `pp,dp,cp,tp`, or `dp,pp,cp,tp`. Inner axes join neighboring
    /// ranks.
    pub mesh_order: MeshOrder,
    /// Format the model's units compute in, parameters and activations alike. Optimizer state, the
    /// weights it updates and the loss stay `f32`. With `f16` the loss is scaled, see `grad_scaler`.
    pub param_dtype: FloatType,
    /// Format gradients are summed in over ranks: `f32` or `bf16`.
    pub reduce_dtype: FloatType,
    /// Dynamic loss scaling, which `param_dtype = "f16"` turns on.
    pub grad_scaler: GradScalerConfig,
    /// Computes the loss on vocabulary shards of the logits when `tensor_parallel` is above 1,
    /// instead of gathering them.
    pub loss_parallel: bool,
    /// Shards activations between tensor-parallel layers along the sequence (Korthikanti et al.,
    /// arXiv:2205.05198); matters when `tensor_parallel` is above 1.
    pub sequence_parallel: bool,
    /// Overlaps tensor-parallel communication with the matrix products beside it; needs
    /// `tensor_parallel` above 1.
    pub async_tensor_parallel: bool,
    /// What of a block's forward pass is kept for its backward pass.
    pub activation_checkpointing: ActivationCheckpointing,
    /// With `activation_checkpointing = "full"`, runs only every n-th block again and keeps the others.
    #[schemars(range(min = 1))]
    pub checkpoint_every_nth_block: usize,
    /// Keeps the parameters of sharded units and their optimizer state in host memory; `wgpu` and
    /// `cuda` only. They go to the GPU for each gather, and reduced gradients come back.
    pub cpu_offload: bool,
    /// Fuses chains of elementwise operations into single kernels; `wgpu` and `cuda` always do, `cpu`
    /// cannot.
    pub compile: bool,
    /// Waiting times of collectives.
    pub comm: CommParameters,
    /// Settings of pipeline parallelism.
    pub pipeline: PipelineParameters,
    /// Settings of context parallelism.
    pub context: ContextParameters,
}

impl Default for DeviceParameters {
    fn default() -> Self {
        Self {
            preset: None,
            device: DeviceKind::Cpu,
            world_size: None,
            ranks: None,
            dp_replicate: Degree::Fixed(1),
            dp_shard: Degree::Fixed(1),
            context_parallel: Degree::Fixed(1),
            tensor_parallel: Degree::Fixed(1),
            pipeline_parallel: Degree::Fixed(1),
            mesh_order: MeshOrder::default(),
            param_dtype: FloatType::F32,
            reduce_dtype: FloatType::F32,
            grad_scaler: GradScalerConfig::default(),
            loss_parallel: true,
            sequence_parallel: true,
            async_tensor_parallel: false,
            reshard: Reshard::Parameters,
            accumulate_whole_gradients: false,
            activation_checkpointing: ActivationCheckpointing::None,
            checkpoint_every_nth_block: 1,
            cpu_offload: false,
            compile: false,
            comm: CommParameters::default(),
            pipeline: PipelineParameters::default(),
            context: ContextParameters::default(),
        }
    }
}

impl DeviceParameters {
    /// Returns which units compute their activations again.
    pub fn recomputed(&self) -> fsdp::ActivationCheckpointing {
        match (self.activation_checkpointing, self.checkpoint_every_nth_block) {
            (ActivationCheckpointing::None, _) => fsdp::ActivationCheckpointing::None,
            (ActivationCheckpointing::Selective, _) => fsdp::ActivationCheckpointing::Selective,
            (ActivationCheckpointing::Full, 1) => fsdp::ActivationCheckpointing::Full,
            (ActivationCheckpointing::Full, n) => fsdp::ActivationCheckpointing::EveryNth(n),
        }
    }

    /// Returns the degree of every mesh axis.
    pub fn degrees(&self) -> Degrees {
        Degrees {
            pp: self.pipeline_parallel,
            dp_replicate: self.dp_replicate,
            dp_shard: self.dp_shard,
            cp: self.context_parallel,
            tp: self.tensor_parallel,
        }
    }
}

impl Preset {
    /// Returns the degrees this preset sets away from 1, by key.
    pub(crate) fn degrees(self) -> &'static [(&'static str, Degree)] {
        match self {
            Self::SingleDevice => &[],
            Self::Ddp | Self::Hsdp => &[("dp_replicate", Degree::Auto)],
            Self::Fsdp => &[("dp_shard", Degree::Auto)],
        }
    }
}
