//! From a resolved configuration to the plan a trainer runs.

use crate::checkpoint::CheckpointConfig;
use crate::comm::CommTimeouts;
use crate::config::{FloatType, Loaded, ResolvedConfig};
use crate::fsdp::FullyShardConfig;
use crate::tensor_parallel::TensorParallelOptions;
use crate::train::{RunConfig, RunPlan, TrainingPlan};
use crate::world::path_with_home;

/// Puts a resolved configuration in the trainer's terms.
pub fn run_plan(loaded: &Loaded, resolved: &ResolvedConfig) -> RunPlan {
    let (training, device) = (&resolved.training, &resolved.device);
    // Parameters rest in `f32`, so that in `f32` there is nothing to cast.
    let cast = |dtype: FloatType| (dtype != FloatType::F32).then(|| dtype.dtype());
    RunPlan {
        model: resolved.model.name().to_owned(),
        run: RunConfig {
            output_dir: path_with_home(&resolved.run.output_dir),
            ..resolved.run.clone()
        },
        device: resolved.device.kind,
        mesh: resolved.device.mesh,
        tensor_parallel: TensorParallelOptions {
            sequence_parallel: resolved.device.sequence_parallel,
            loss_parallel: resolved.device.loss_parallel,
            overlap: resolved.device.async_tensor_parallel,
        },
        fully_shard: FullyShardConfig {
            reshard: device.reshard,
            accumulate_whole_gradients: device.accumulate_whole_gradients,
            param_dtype: cast(device.param_dtype),
            reduce_dtype: cast(device.reduce_dtype),
            cpu_offload: device.cpu_offload,
            ..FullyShardConfig::default()
        },
        grad_scaler: device.grad_scaler.clone(),
        activation_checkpointing: resolved.device.activation_checkpointing,
        timeouts: CommTimeouts {
            connect: resolved.device.init_timeout,
            ..CommTimeouts::uniform(resolved.device.timeout)
        },
        reduction: resolved.device.reduction,
        training: TrainingPlan {
            length: training.length,
            global_batch_size: training.global_batch_size,
            micro_batch_size: training.micro_batch_size,
            gradient_accumulation_steps: training.gradient_accumulation_steps,
            sequence_length: training.sequence_length,
            max_grad_norm: training.max_grad_norm.unwrap_or(0.0),
            val_every_n_steps: training.val_every_n_steps.unwrap_or(0),
            val_steps: training.val_steps.unwrap_or(0),
            num_sanity_val_steps: training.num_sanity_val_steps,
            on_nonfinite: training.on_nonfinite,
            max_consecutive_skips: training.max_consecutive_skips,
        },
        optimizer: resolved.optimizer.clone(),
        lr_scheduler: resolved.lr_scheduler.clone(),
        data: resolved.data.clone(),
        checkpoint: CheckpointConfig {
            init_from: resolved.checkpoint.init_from.as_deref().map(path_with_home),
            ..resolved.checkpoint.clone()
        },
        metrics: resolved.metrics.clone(),
        callbacks: resolved.callbacks.clone(),
        config_text: loaded.show(resolved),
    }
}
