//! The traits a user implements: what the model is, how it is parallelized and what a step does.

use std::collections::BTreeSet;
use std::ops::Deref;
use std::path::PathBuf;

use burn::module::Module;
use burn::tensor::{DType, Tensor, TensorData};
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Batch, BoxError, Replicate, Result, RunPlan, StepContext};
use crate::checkpoint::hf::HfDirectory;
use crate::fsdp::{ActivationCheckpointing, FullyShard};
use crate::mesh::{Block, DeviceMesh};
use crate::nn::Scope;
use crate::tensor_parallel::TensorParallel;

/// What [`ModelSetup::configure_model`] builds with: the root [`Scope`], and where this rank
/// stands.
#[derive(Debug, Clone)]
pub struct SetupContext {
    /// Root of the model: device, seed and paths.
    pub scope: Scope,
    /// Mesh of the run.
    pub mesh: DeviceMesh,
    /// Global rank.
    pub rank: usize,
    /// Tokens per sequence.
    pub sequence_length: usize,
}

impl Deref for SetupContext {
    type Target = Scope;

    fn deref(&self) -> &Scope {
        &self.scope
    }
}

/// Selects the parameters of one optimizer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OptimizerScope {
    /// Name by which a step asks for it.
    pub name: String,
    /// Dotted path below which the parameters lie; empty for all.
    pub prefix: String,
}

/// Name of the only optimizer of a recipe that does not list its own.
pub const MAIN: &str = "main";

/// Weights by parameter path, from a checkpoint or another framework's files.
pub trait WeightSource: Send {
    /// Lists what it holds by parameter path; what belongs to no parameter under a name of its own.
    /// A run takes all of it or says which part.
    fn paths(&self) -> BTreeSet<String>;

    /// Returns row-major data of a block of the parameter at `path`, or nothing when the source does not
    /// have it. Only the block is read.
    fn read(&self, path: &str, global_shape: &[usize], block: &Block)
    -> Result<Option<TensorData>>;

    /// Describes the source in one line.
    fn describe(&self) -> String;
}

/// Says what the model is.
pub trait ModelSetup: Send + Sync + 'static {
    /// The `[model]` table without its `name`.
    type Config: DeserializeOwned + Serialize + JsonSchema + Clone + Send + Sync + 'static;
    /// The model, or a struct of several models.
    type Model: Module + 'static;

    /// Builds the model. Parameters hold no values yet: they are made later, and only what this
    /// rank keeps.
    ///
    /// # Errors
    ///
    /// Whatever makes the configuration impossible.
    fn configure_model(&self, config: &Self::Config, ctx: &SetupContext) -> Result<Self::Model>;

    /// Checks the configuration against the plan before anything starts.
    ///
    /// # Errors
    ///
    /// Whatever makes the run impossible.
    fn check(&self, config: &Self::Config, plan: &RunPlan) -> Result<()> {
        let _ = (config, plan);
        Ok(())
    }

    /// Returns the number of token ids the model knows, against which data is checked.
    fn vocab_size(&self, config: &Self::Config) -> Option<usize> {
        let _ = config;
        None
    }

    /// Returns the floating-point operations of one trained token, forward and backward.
    fn flops_per_token(&self, config: &Self::Config, sequence_length: usize) -> Option<f64> {
        let _ = (config, sequence_length);
        None
    }

    /// Estimates the most bytes that one rank's operations hold for the backward pass of a
    /// microbatch, weights aside. A run measures the same; see
    /// [`measure_saved_bytes`](crate::kernels::measure_saved_bytes).
    fn activation_bytes(&self, config: &Self::Config, plan: &RunPlan) -> Option<u64> {
        let _ = (config, plan);
        None
    }

    /// Returns what the model computes, by the keys of the `[model]` table: what a checkpoint belongs
    /// to. A run does not continue from a checkpoint of another architecture, nor take its weights.
    ///
    /// By default the whole table. Where several tables give one model, for flavors have names,
    /// return the sizes they come to; leave out what changes no result.
    ///
    /// # Errors
    ///
    /// Whatever makes the configuration impossible.
    fn architecture(&self, config: &Self::Config) -> Result<Value> {
        Ok(serde_json::to_value(config)?)
    }

    /// Names keys of [`ModelSetup::architecture`] that only training reads, dropout for one: a run
    /// keeps them, but weights from elsewhere need not have been trained with the same.
    fn training_keys(&self) -> &'static [&'static str] {
        &[]
    }

    /// Returns a Hugging Face directory that the configuration names as the source of first
    /// weights.
    fn hugging_face_dir(&self, config: &Self::Config) -> Option<PathBuf> {
        let _ = config;
        None
    }

    /// Returns the architecture of the model in a Hugging Face directory, in the terms of
    /// [`ModelSetup::architecture`].
    ///
    /// # Errors
    ///
    /// The directory holds a model that this recipe does not know; by default, always.
    fn hugging_face_architecture(
        &self,
        config: &Self::Config,
        directory: &HfDirectory,
    ) -> Result<Value> {
        let _ = config;
        Err(unreadable(directory))
    }

    /// Maps a Hugging Face directory to this model's parameters.
    ///
    /// # Errors
    ///
    /// The directory describes another model; by default, always.
    fn hugging_face_weights(
        &self,
        config: &Self::Config,
        directory: HfDirectory,
    ) -> Result<Box<dyn WeightSource>> {
        let _ = config;
        Err(unreadable(&directory))
    }

    /// Tells whether a parameter of two dimensions maps hidden states to hidden states, which is what
    /// the optimizer `muon` is made for. Embeddings and the output projection do not. By default none
    /// does, and `muon` is refused.
    fn is_hidden_matrix(&self, config: &Self::Config, path: &str) -> bool {
        let _ = (config, path);
        false
    }

    /// Lists the optimizers; by default one, called [`MAIN`], for all parameters.
    fn optimizers(&self) -> Vec<OptimizerScope> {
        vec![OptimizerScope { name: MAIN.into(), prefix: String::new() }]
    }
}

fn unreadable(directory: &HfDirectory) -> BoxError {
    let path = directory.path().display();
    format!("this recipe cannot read the Hugging Face directory {path}").into()
}

/// Replicates the model over data-parallel ranks (DDP).
pub trait ApplyReplicate: ModelSetup {
    /// Chooses how gradients travel. The default sums them over all data-parallel ranks in buckets
    /// of 25 MiB.
    ///
    /// # Errors
    ///
    /// Whatever makes it impossible.
    fn apply_replicate(
        &self,
        model: Self::Model,
        replicate: &mut Replicate,
    ) -> Result<Self::Model> {
        let _ = replicate;
        Ok(model)
    }
}

/// Splits the model's matrices over the ranks of the `tp` axis.
pub trait ApplyTensorParallel: ModelSetup {
    /// Applies a plan, `tp.parallelize(model, &plan)`.
    ///
    /// # Errors
    ///
    /// A plan that does not fit the model.
    fn apply_tensor_parallel(&self, model: Self::Model, tp: &TensorParallel)
    -> Result<Self::Model>;
}

/// Shards the model's units over the ranks of `dp_shard` x `cp` (FSDP; with `dp_replicate` HSDP).
pub trait ApplyFullyShard: ModelSetup {
    /// Shards the units in the order in which they run, then the root.
    ///
    /// # Errors
    ///
    /// A parameter in two units.
    fn apply_fully_shard(&self, model: Self::Model, fsdp: &FullyShard) -> Result<Self::Model>;
}

/// Chooses which units compute their activations again in the backward pass.
pub trait ApplyActivationCheckpointing: ModelSetup {
    /// Applies the choice to the model's units.
    ///
    /// # Errors
    ///
    /// Whatever makes it impossible.
    fn apply_activation_checkpointing(
        &self,
        model: Self::Model,
        policy: ActivationCheckpointing,
    ) -> Result<Self::Model>;
}

/// The sum of the losses of a batch's targets, as a tensor of one element in `f32`.
#[derive(Debug, Clone)]
pub struct Loss(Tensor<1>);

impl Loss {
    /// Takes the sum over the targets that count. The trainer divides by their number over all
    /// ranks and microbatches.
    pub fn sum(sum: Tensor<1>) -> Self {
        // What is divided, scaled and summed over ranks needs the range and digits of `f32`.
        Self(sum.cast(DType::F32))
    }

    /// Takes the mean over `num_targets` targets.
    pub fn mean(mean: Tensor<1>, num_targets: usize) -> Self {
        Self(mean.cast(DType::F32) * num_targets as f64)
    }

    pub(crate) fn into_sum(self) -> Tensor<1> {
        self.0
    }
}

/// Says what a step does.
///
/// Most recipes implement [`TrainingStep::forward`] and [`TrainingStep::loss`] and keep the rest:
/// the two are apart so that a pipeline schedule can drive them microbatch by microbatch. An
/// algorithm with several models or optimizers overrides [`TrainingStep::training_step`].
pub trait TrainingStep: ModelSetup {
    /// What the data gives for one forward pass.
    type Batch: Batch;
    /// What the loss needs of the forward pass.
    type Output: Send;

    /// Runs the model.
    ///
    /// # Errors
    ///
    /// Whatever makes it impossible.
    fn forward(&self, model: &Self::Model, batch: &Self::Batch) -> Result<Self::Output>;

    /// Computes the loss of an output.
    ///
    /// # Errors
    ///
    /// Whatever makes it impossible.
    fn loss(&self, model: &Self::Model, output: Self::Output, batch: &Self::Batch) -> Result<Loss>;

    /// Does one optimizer step over the accumulated microbatches and returns the updated model.
    ///
    /// # Communication
    ///
    /// [`StepContext::step`] reduces gradients over the data-parallel ranks once, after the last
    /// microbatch.
    ///
    /// # Errors
    ///
    /// Whatever makes it impossible; errors of the context are passed on.
    fn training_step(
        &self,
        model: Self::Model,
        batches: Vec<Self::Batch>,
        ctx: &mut StepContext<'_>,
    ) -> Result<Self::Model> {
        ctx.forward_backward(self, &model, &batches)?;
        Ok(ctx.step(model, MAIN)?)
    }

    /// Computes the validation loss of a batch, on a model without autodiff.
    ///
    /// # Errors
    ///
    /// Whatever makes it impossible.
    fn validation_step(&self, model: &Self::Model, batch: &Self::Batch) -> Result<Loss> {
        let output = self.forward(model, batch)?;
        self.loss(model, output, batch)
    }
}
