//! A user's recipe: Llama 3, trained by implementing the setup traits in a crate of one's own.
//!
//! The model comes from `dream-models`; any Burn module does. Run it with `cargo run --release -p
//! llama3-recipe -- --config configs/llama3_debug.toml`.

use std::process::ExitCode;

use burn::tensor::Tensor;
use dream_models::llama3::{Llama3, Llama3Config, TokenLayout};
use dream_trainer::cli;
use dream_trainer::recipe::Recipe;
use dream_trainer::train::{
    ApplyReplicate, Loss, ModelSetup, Result, SetupContext, TokenBatch, Trainer, TrainingStep,
};

#[global_allocator]
static ALLOCATOR: dream_trainer::Allocator = dream_trainer::Allocator;

struct MyLlama;

/// What the model is. `Config` is the `[model]` table, strict.
impl ModelSetup for MyLlama {
    type Config = Llama3Config;
    type Model = Llama3;

    fn configure_model(&self, config: &Llama3Config, ctx: &SetupContext) -> Result<Llama3> {
        Ok(config.resolve()?.init(ctx))
    }

    fn is_hidden_matrix(&self, _: &Llama3Config, path: &str) -> bool {
        path.starts_with("layers.")
    }

    fn vocab_size(&self, config: &Llama3Config) -> Option<usize> {
        config.resolve().ok().map(|shape| shape.vocab_size)
    }
}

/// What it can be run on: with this, `dp_replicate` may be more than 1. Gradients are summed in
/// smaller messages than by default.
impl ApplyReplicate for MyLlama {
    fn apply_replicate(
        &self,
        model: Llama3,
        replicate: &mut dream_trainer::train::Replicate,
    ) -> Result<Llama3> {
        replicate.set_bucket_cap_mib(4);
        Ok(model)
    }
}

/// What a step does: a forward pass and a loss. The trainer owns accumulation, reduction, clipping
/// and the optimizer.
impl TrainingStep for MyLlama {
    type Batch = TokenBatch;
    type Output = Tensor<3>;

    fn forward(&self, model: &Llama3, batch: &TokenBatch) -> Result<Tensor<3>> {
        Ok(model.forward(batch.tokens(), &TokenLayout::default()))
    }

    fn loss(&self, model: &Llama3, hidden: Tensor<3>, batch: &TokenBatch) -> Result<Loss> {
        let head = model.head_weight().ok_or("this model has no head")?;
        Ok(Loss::sum(head.cross_entropy(hidden, batch.labels())))
    }
}

fn main() -> ExitCode {
    cli::main([Recipe::new("llama3", Trainer::new(MyLlama).with_replicate())])
}
