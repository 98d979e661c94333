//! Recipes: a name under which a configuration finds a trainer.
//!
//! A program is a list of recipes handed to [`cli::main`](crate::cli::main). The types of a
//! recipe's model, batch and configuration end here; what follows only sees a [`Recipe`].

mod plan;
mod prepared;

use crate::config::{
    Availability, Capabilities, ConfigErrors, Loaded, ModelTable, ResolvedConfig, model_schema,
};
use crate::train::{Trainer, TrainingStep};

pub use plan::run_plan;
pub use prepared::{MakeCallbacks, PrepareError, Prepared};

/// A trainer with a name.
pub struct Recipe {
    name: String,
    erased: Box<dyn Erased>,
}

impl Recipe {
    /// Names a trainer.
    pub fn new<S: TrainingStep>(name: impl Into<String>, trainer: Trainer<S>) -> Self {
        Self { name: name.into(), erased: Box::new(trainer) }
    }

    /// Returns the name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns what the recipe and this build can do.
    pub fn capabilities(&self) -> Capabilities {
        let not_yet = Availability::NotBuilt;
        let traits = self.erased.traits();
        Capabilities {
            recipe: self.name.clone(),
            replicate: traits.replicate,
            fully_shard: traits.fully_shard,
            tensor_parallel: traits.tensor_parallel,
            async_tensor_parallel: traits.tensor_parallel,
            context_parallel: not_yet("this version does not split sequences yet"),
            pipeline_parallel: not_yet("this version does not split layers into stages yet"),
            activation_checkpointing: traits.activation_checkpointing,
            half_precision: traits.fully_shard,
            wgpu: if cfg!(feature = "wgpu") {
                Availability::Available
            } else {
                not_yet("this build has no WebGPU backend; build with `--features wgpu`")
            },
            cuda: if cfg!(feature = "cuda") {
                Availability::Available
            } else {
                not_yet("this build has no CUDA backend; build with `--features cuda`")
            },
            cpu_offload: traits.fully_shard,
            compile: not_yet("GPU devices always fuse and the CPU backend cannot; leave it out"),
        }
    }

    /// Returns the JSON schema of the recipe's `[model]` table.
    pub fn schema(&self) -> schemars::Schema {
        self.erased.schema()
    }

    /// Reads the recipe's `[model]` table and checks it against the plan, so that nothing but I/O
    /// can fail later.
    ///
    /// # Errors
    ///
    /// Everything in the configuration that this recipe or this build cannot do, with places.
    pub fn prepare(
        &self,
        loaded: &Loaded,
        resolved: &ResolvedConfig,
    ) -> Result<Box<dyn Prepared + '_>, PrepareError> {
        loaded.require(resolved, &self.capabilities())?;
        self.erased.prepare(loaded, resolved)
    }
}

/// Which setup traits a trainer was composed with.
struct Traits {
    replicate: Availability,
    fully_shard: Availability,
    tensor_parallel: Availability,
    activation_checkpointing: Availability,
}

trait Erased: Send + Sync {
    fn traits(&self) -> Traits;
    fn schema(&self) -> schemars::Schema;
    fn prepare(
        &self,
        loaded: &Loaded,
        resolved: &ResolvedConfig,
    ) -> Result<Box<dyn Prepared + '_>, PrepareError>;
}

impl<S: TrainingStep> Erased for Trainer<S> {
    fn traits(&self) -> Traits {
        let has = |has| if has { Availability::Available } else { Availability::NoTrait };
        Traits {
            replicate: has(self.replicates()),
            fully_shard: has(self.shards_units()),
            tensor_parallel: has(self.splits_matrices()),
            activation_checkpointing: has(self.recomputes()),
        }
    }

    fn schema(&self) -> schemars::Schema {
        model_schema::<S::Config>()
    }

    fn prepare(
        &self,
        loaded: &Loaded,
        resolved: &ResolvedConfig,
    ) -> Result<Box<dyn Prepared + '_>, PrepareError> {
        Ok(Box::new(prepared::PreparedTrainer::new(self, loaded, resolved)?))
    }
}

/// Finds the recipe that a `[model]` table names.
///
/// # Errors
///
/// No recipe has that name.
pub fn find<'a>(recipes: &'a [Recipe], table: &ModelTable) -> Result<&'a Recipe, ConfigErrors> {
    let names: Vec<&str> = recipes.iter().map(Recipe::name).collect();
    let found = recipes.iter().find(|recipe| recipe.name == table.name());
    found.ok_or_else(|| table.unknown_name(&names).into())
}
