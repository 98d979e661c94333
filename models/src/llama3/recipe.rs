//! Llama 3 as a recipe.

use std::path::PathBuf;

use burn::tensor::Tensor;
use dream_trainer::checkpoint::hf::HfDirectory;
use dream_trainer::fsdp::{ActivationCheckpointing, FullyShard};
use dream_trainer::recipe::Recipe;
use dream_trainer::tensor_parallel::TensorParallel;
use dream_trainer::train::{
    ApplyActivationCheckpointing, ApplyFullyShard, ApplyReplicate, ApplyTensorParallel, Loss,
    ModelSetup, Result, RunPlan, SetupContext, TokenBatch, Trainer, TrainingStep, WeightSource,
};
use dream_trainer::world::path_with_home;
use serde_json::Value;

use super::{
    Llama3, Llama3Config, Llama3Shape, RopeScaling, TokenLayout, hf_weights,
    is_redundant_hf_tensor, plan,
};
use crate::activations::Microbatch;
use crate::{HfSource, ModelError};

/// Trains [`Llama3`] on token sequences.
#[derive(Debug, Clone, Copy, Default)]
pub struct Llama3Recipe;

/// Returns the recipe `llama3` with every parallelism it knows.
pub fn recipe() -> Recipe {
    Recipe::new(
        "llama3",
        Trainer::new(Llama3Recipe)
            .with_replicate()
            .with_fully_shard()
            .with_tensor_parallel()
            .with_activation_checkpointing(),
    )
}

/// Returns what the model computes: its shape without the limit on sequences and without a
/// stretching of frequencies by 1, which change nothing.
fn architecture(shape: &Llama3Shape) -> Result<Value> {
    let stretches = |scaling: &RopeScaling| match scaling {
        RopeScaling::Linear { factor } => *factor != 1.0,
        RopeScaling::Llama3(scaling) => scaling.factor != 1.0,
        // A factor of 1 is not all there is to these.
        RopeScaling::Dynamic { .. } | RopeScaling::Yarn(_) => true,
    };
    let rope_scaling = shape.rope_scaling.filter(stretches);
    let mut table = serde_json::to_value(Llama3Shape { rope_scaling, ..shape.clone() })?;
    if let Some(keys) = table.as_object_mut() {
        keys.remove("max_seq_len");
    }
    Ok(table)
}

impl ModelSetup for Llama3Recipe {
    type Config = Llama3Config;
    type Model = Llama3;

    fn configure_model(&self, config: &Llama3Config, ctx: &SetupContext) -> Result<Llama3> {
        Ok(config.resolve()?.init(ctx))
    }

    fn check(&self, config: &Llama3Config, plan: &RunPlan) -> Result<()> {
        let shape = config.resolve().map_err(ModelError::refused)?;
        Ok(shape.check_sequence(plan.training.sequence_length).map_err(ModelError::refused)?)
    }

    fn is_hidden_matrix(&self, _: &Llama3Config, path: &str) -> bool {
        path.starts_with("layers.")
    }

    fn vocab_size(&self, config: &Llama3Config) -> Option<usize> {
        Some(config.resolve().ok()?.vocab_size)
    }

    fn flops_per_token(&self, config: &Llama3Config, sequence_length: usize) -> Option<f64> {
        Some(config.resolve().ok()?.flops_per_token(sequence_length))
    }

    fn activation_bytes(&self, config: &Llama3Config, plan: &RunPlan) -> Option<u64> {
        config.resolve().ok()?.activations().bytes(&Microbatch::of(plan))
    }

    fn architecture(&self, config: &Llama3Config) -> Result<Value> {
        architecture(&config.resolve()?)
    }

    fn hugging_face_architecture(
        &self,
        _: &Llama3Config,
        directory: &HfDirectory,
    ) -> Result<Value> {
        architecture(&Llama3Shape::from_hf(directory.config())?)
    }

    fn hugging_face_dir(&self, config: &Llama3Config) -> Option<PathBuf> {
        config.hf_dir.as_deref().map(path_with_home)
    }

    fn hugging_face_weights(
        &self,
        config: &Llama3Config,
        directory: HfDirectory,
    ) -> Result<Box<dyn WeightSource>> {
        let shape = config.resolve()?;
        let weights = hf_weights(&shape);
        let is_redundant = |name: &str| is_redundant_hf_tensor(&shape, name);
        Ok(Box::new(HfSource::new(directory, weights, is_redundant)))
    }
}

impl ApplyReplicate for Llama3Recipe {}

impl ApplyTensorParallel for Llama3Recipe {
    fn apply_tensor_parallel(&self, model: Llama3, tp: &TensorParallel) -> Result<Llama3> {
        let plan = plan(model.shape(), tp.options());
        Ok(tp.parallelize(model, &plan)?)
    }
}

impl ApplyFullyShard for Llama3Recipe {
    fn apply_fully_shard(&self, mut model: Llama3, fsdp: &FullyShard) -> Result<Llama3> {
        model.tok_embeddings = model.tok_embeddings.map(|unit| fsdp.shard(unit)).transpose()?;
        model.layers = fsdp.shard_each(model.layers)?;
        model.output = model.output.map(|unit| fsdp.shard(unit)).transpose()?;
        Ok(fsdp.shard_root(model))
    }
}

impl ApplyActivationCheckpointing for Llama3Recipe {
    fn apply_activation_checkpointing(
        &self,
        mut model: Llama3,
        policy: ActivationCheckpointing,
    ) -> Result<Llama3> {
        model.layers = policy.apply(model.layers)?;
        Ok(model)
    }
}

impl TrainingStep for Llama3Recipe {
    type Batch = TokenBatch;
    type Output = Tensor<3>;

    fn forward(&self, model: &Llama3, batch: &TokenBatch) -> Result<Tensor<3>> {
        let layout = TokenLayout { documents: batch.documents(), ..TokenLayout::default() };
        Ok(model.forward(batch.tokens(), &layout))
    }

    fn loss(&self, model: &Llama3, hidden: Tensor<3>, batch: &TokenBatch) -> Result<Loss> {
        let head = model.head_weight().ok_or("the loss needs a stage with a head")?;
        Ok(Loss::sum(head.cross_entropy(hidden, batch.labels())))
    }
}
