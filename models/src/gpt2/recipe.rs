//! The GPT-2-style transformer as a recipe.

use burn::tensor::Tensor;
use dream_trainer::fsdp::{ActivationCheckpointing, FullyShard};
use dream_trainer::recipe::Recipe;
use dream_trainer::tensor_parallel::TensorParallel;
use dream_trainer::train::{
    ApplyActivationCheckpointing, ApplyFullyShard, ApplyReplicate, ApplyTensorParallel, Loss,
    ModelSetup, Result, RunPlan, SetupContext, TokenBatch, Trainer, TrainingStep,
};

use super::{Gpt2, Gpt2Config, plan};
use crate::ModelError;
use crate::activations::Microbatch;

/// Trains [`Gpt2`] on token sequences.
#[derive(Debug, Clone, Copy, Default)]
pub struct Gpt2Recipe;

/// Returns the recipe `gpt2` with every parallelism it knows.
pub fn recipe() -> Recipe {
    Recipe::new(
        "gpt2",
        Trainer::new(Gpt2Recipe)
            .with_replicate()
            .with_fully_shard()
            .with_tensor_parallel()
            .with_activation_checkpointing(),
    )
}

impl ModelSetup for Gpt2Recipe {
    type Config = Gpt2Config;
    type Model = Gpt2;

    fn configure_model(&self, config: &Gpt2Config, ctx: &SetupContext) -> Result<Gpt2> {
        Ok(config.resolve()?.init(ctx))
    }

    fn check(&self, config: &Gpt2Config, plan: &RunPlan) -> Result<()> {
        let shape = config.resolve().map_err(ModelError::refused)?;
        Ok(shape.check_sequence(plan.training.sequence_length).map_err(ModelError::refused)?)
    }

    fn is_hidden_matrix(&self, _: &Gpt2Config, path: &str) -> bool {
        path.starts_with("layers.")
    }

    fn training_keys(&self) -> &'static [&'static str] {
        &["dropout"]
    }

    fn vocab_size(&self, config: &Gpt2Config) -> Option<usize> {
        Some(config.vocab_size)
    }

    fn flops_per_token(&self, config: &Gpt2Config, sequence_length: usize) -> Option<f64> {
        Some(config.resolve().ok()?.flops_per_token(sequence_length))
    }

    fn activation_bytes(&self, config: &Gpt2Config, plan: &RunPlan) -> Option<u64> {
        config.resolve().ok()?.activations().bytes(&Microbatch::of(plan))
    }
}

impl ApplyReplicate for Gpt2Recipe {}

impl ApplyTensorParallel for Gpt2Recipe {
    fn apply_tensor_parallel(&self, model: Gpt2, tp: &TensorParallel) -> Result<Gpt2> {
        let plan = plan(model.shape(), tp.options());
        Ok(tp.parallelize(model, &plan)?)
    }
}

impl ApplyFullyShard for Gpt2Recipe {
    fn apply_fully_shard(&self, mut model: Gpt2, fsdp: &FullyShard) -> Result<Gpt2> {
        model.tok_embeddings = model.tok_embeddings.map(|unit| fsdp.shard(unit)).transpose()?;
        model.pos_embeddings = model.pos_embeddings.map(|unit| fsdp.shard(unit)).transpose()?;
        model.layers = fsdp.shard_each(model.layers)?;
        Ok(fsdp.shard_root(model))
    }
}

impl ApplyActivationCheckpointing for Gpt2Recipe {
    fn apply_activation_checkpointing(
        &self,
        mut model: Gpt2,
        policy: ActivationCheckpointing,
    ) -> Result<Gpt2> {
        model.layers = policy.apply(model.layers)?;
        Ok(model)
    }
}

impl TrainingStep for Gpt2Recipe {
    type Batch = TokenBatch;
    type Output = Tensor<3>;

    fn forward(&self, model: &Gpt2, batch: &TokenBatch) -> Result<Tensor<3>> {
        Ok(model.forward_training(batch.tokens(), batch.draw()))
    }

    fn loss(&self, model: &Gpt2, hidden: Tensor<3>, batch: &TokenBatch) -> Result<Loss> {
        let head = model.head_weight().ok_or("the loss needs a stage with a head")?;
        Ok(Loss::sum(head.cross_entropy(hidden, batch.labels())))
    }

    /// Without dropout.
    fn validation_step(&self, model: &Gpt2, batch: &TokenBatch) -> Result<Loss> {
        self.loss(model, model.forward(batch.tokens()), batch)
    }
}
