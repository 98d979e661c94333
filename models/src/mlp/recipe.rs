//! The MLP as a recipe: it learns to make its output small, which is all one needs to see gradients
//! flow.

use burn::tensor::{DType, Tensor};
use dream_trainer::fsdp::{ActivationCheckpointing, FullyShard};
use dream_trainer::recipe::Recipe;
use dream_trainer::tensor_parallel::TensorParallel;
use dream_trainer::train::{
    ApplyActivationCheckpointing, ApplyFullyShard, ApplyReplicate, ApplyTensorParallel, Loss,
    ModelSetup, RefusedKeys, Result, RunPlan, SetupContext, Trainer, TrainingStep,
};

use super::{Mlp, MlpConfig, RowBatch, plan};
use crate::ModelError;
use crate::activations::{Microbatch, saturated};

/// Trains [`Mlp`] on made-up rows; the loss is the mean square of the output.
#[derive(Debug, Clone, Copy, Default)]
pub struct MlpRecipe;

/// Returns the recipe `mlp` with every parallelism it knows.
pub fn recipe() -> Recipe {
    Recipe::new(
        "mlp",
        Trainer::new(MlpRecipe)
            .with_replicate()
            .with_fully_shard()
            .with_tensor_parallel()
            .with_activation_checkpointing(),
    )
}

impl ModelSetup for MlpRecipe {
    type Config = MlpConfig;
    type Model = Mlp;

    fn configure_model(&self, config: &MlpConfig, ctx: &SetupContext) -> Result<Mlp> {
        Ok(config.init(ctx)?)
    }

    /// A row is a sequence whose length is the input size.
    fn check(&self, config: &MlpConfig, plan: &RunPlan) -> Result<()> {
        config.validate().map_err(ModelError::refused)?;
        let (width, length) = (config.widths[0], plan.training.sequence_length);
        if width != length {
            let keys = ["training_parameters.sequence_length", "model.widths"];
            let text = format!(
                "`training_parameters.sequence_length` is {length} but must be the input size `model.widths[0]` = {width}"
            );
            return Err(RefusedKeys::new(keys, text).into());
        }
        Ok(())
    }

    /// All layers but the first, which takes the input, and the last, which gives the output.
    fn is_hidden_matrix(&self, config: &MlpConfig, path: &str) -> bool {
        let layer = path.strip_prefix("layers.").and_then(|rest| rest.split('.').next());
        let layer: Option<usize> = layer.and_then(|layer| layer.parse().ok());
        layer.is_some_and(|layer| layer > 0 && layer + 2 < config.widths.len())
    }

    fn flops_per_token(&self, config: &MlpConfig, _: usize) -> Option<f64> {
        Some(config.flops_per_row())
    }

    fn activation_bytes(&self, config: &MlpConfig, plan: &RunPlan) -> Option<u64> {
        let batch = Microbatch::of(plan);
        let recomputes = plan.activation_checkpointing != ActivationCheckpointing::None;
        let bytes =
            || saturated(4 * batch.sequences as u128 * config.saved_per_row(batch.tp) as u128);
        (!recomputes).then(bytes)
    }
}

impl ApplyReplicate for MlpRecipe {}

impl ApplyTensorParallel for MlpRecipe {
    fn apply_tensor_parallel(&self, model: Mlp, tp: &TensorParallel) -> Result<Mlp> {
        let plan = plan(model.layers.len());
        Ok(tp.parallelize(model, &plan)?)
    }
}

impl ApplyFullyShard for MlpRecipe {
    fn apply_fully_shard(&self, mut model: Mlp, fsdp: &FullyShard) -> Result<Mlp> {
        model.layers = fsdp.shard_each(model.layers)?;
        Ok(fsdp.shard_root(model))
    }
}

impl ApplyActivationCheckpointing for MlpRecipe {
    fn apply_activation_checkpointing(
        &self,
        mut model: Mlp,
        policy: ActivationCheckpointing,
    ) -> Result<Mlp> {
        model.layers = policy.apply(model.layers)?;
        Ok(model)
    }
}

impl TrainingStep for MlpRecipe {
    type Batch = RowBatch;
    type Output = Tensor<2>;

    fn forward(&self, model: &Mlp, batch: &RowBatch) -> Result<Tensor<2>> {
        Ok(model.forward(batch.rows()))
    }

    fn loss(&self, _: &Mlp, output: Tensor<2>, batch: &RowBatch) -> Result<Loss> {
        let output = output.cast(DType::F32);
        let mean = (output.clone() * output).mean();
        Ok(Loss::mean(mean, dream_trainer::train::Batch::num_targets(batch)))
    }
}
