//! A recipe with its configuration: ready to run.

use super::run_plan;
use crate::callbacks::CallbackSet;
use crate::comm::{RankFailure, Ranks};
use crate::config::{ConfigErrors, DeviceKind, Loaded, ResolvedConfig};
use crate::nn::ParameterEntry;
use crate::run_folder::RunFolder;
use crate::train::{
    HostBytes, Interrupt, Placements, RefusedKeys, RunOutcome, RunPlan, TrainError, Trainer,
    TrainingStep,
};
use crate::world::memory_bytes;

/// Why a recipe cannot run a configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrepareError {
    /// A value of the configuration.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// A check of the recipe or the trainer.
    #[error(transparent)]
    Train(#[from] TrainError),
}

/// Makes the callbacks of a rank.
pub type MakeCallbacks<'a> = &'a (dyn Fn(usize) -> CallbackSet + Sync);

/// A run that can start.
pub trait Prepared {
    /// Returns the plan.
    fn plan(&self) -> &RunPlan;

    /// Lists the model's parameters without making any value.
    ///
    /// # Errors
    ///
    /// The recipe cannot build the model.
    fn parameters(&self) -> Result<Vec<ParameterEntry>, TrainError>;

    /// Says what `rank` will hold of the model, without making any value or starting a rank.
    ///
    /// # Errors
    ///
    /// The recipe cannot build or split the model.
    fn placements(&self, rank: usize) -> Result<Placements, TrainError>;

    /// Estimates the bytes that a rank's operations hold for the backward pass of a microbatch, if
    /// the recipe tells.
    fn activation_bytes(&self) -> Option<u64>;

    /// Checks that the memory of this machine can hold the ranks that are its threads.
    ///
    /// # Errors
    ///
    /// The ranks need more than there is; the recipe cannot build the model.
    fn check_memory(&self, ranks: &Ranks) -> Result<(), TrainError> {
        let plan = self.plan();
        match (ranks, memory_bytes()) {
            (Ranks::Threads(num_ranks), Some(available)) if plan.device == DeviceKind::Cpu => {
                let activations = self.activation_bytes();
                let needs = HostBytes::estimate(plan, &self.parameters()?, activations);
                if needs.total() <= available {
                    return Ok(());
                }
                Err(TrainError::Memory { num_ranks: *num_ranks, needs, available })
            }
            _ => Ok(()),
        }
    }

    /// Returns the floating-point operations of one trained token, if the recipe tells.
    fn flops_per_token(&self) -> Option<f64>;

    /// Takes the run's folder and runs the plan on the ranks of this process.
    ///
    /// # Errors
    ///
    /// Another run has the folder; the first rank that failed.
    fn fit(
        &self,
        ranks: &Ranks,
        interrupt: &Interrupt,
        callbacks: MakeCallbacks<'_>,
    ) -> Result<RunOutcome, RankFailure<TrainError>>;

    /// Runs the plan in a folder that was taken before, or in one that is not written.
    ///
    /// # Errors
    ///
    /// The first rank that failed.
    fn fit_in(
        &self,
        folder: &RunFolder,
        ranks: &Ranks,
        interrupt: &Interrupt,
        callbacks: MakeCallbacks<'_>,
    ) -> Result<RunOutcome, RankFailure<TrainError>>;
}

pub(super) struct PreparedTrainer<'a, S: TrainingStep> {
    trainer: &'a Trainer<S>,
    config: S::Config,
    plan: RunPlan,
}

impl<'a, S: TrainingStep> PreparedTrainer<'a, S> {
    pub(super) fn new(
        trainer: &'a Trainer<S>,
        loaded: &Loaded,
        resolved: &ResolvedConfig,
    ) -> Result<Self, PrepareError> {
        let config = resolved.model.parse::<S::Config>()?;
        let plan = run_plan(loaded, resolved);
        trainer.check(&config, &plan).map_err(|error| with_places(loaded, error))?;
        Ok(Self { trainer, config, plan })
    }
}

impl<S: TrainingStep> Prepared for PreparedTrainer<'_, S> {
    fn plan(&self) -> &RunPlan {
        &self.plan
    }

    fn parameters(&self) -> Result<Vec<ParameterEntry>, TrainError> {
        self.trainer.parameters(&self.config, &self.plan)
    }

    fn placements(&self, rank: usize) -> Result<Placements, TrainError> {
        self.trainer.placements(&self.config, &self.plan, rank)
    }

    fn activation_bytes(&self) -> Option<u64> {
        self.trainer.setup().activation_bytes(&self.config, &self.plan)
    }

    fn flops_per_token(&self) -> Option<f64> {
        self.trainer.setup().flops_per_token(&self.config, self.plan.training.sequence_length)
    }

    fn fit(
        &self,
        ranks: &Ranks,
        interrupt: &Interrupt,
        callbacks: MakeCallbacks<'_>,
    ) -> Result<RunOutcome, RankFailure<TrainError>> {
        self.trainer.fit(&self.config, &self.plan, ranks, interrupt, callbacks)
    }

    fn fit_in(
        &self,
        folder: &RunFolder,
        ranks: &Ranks,
        interrupt: &Interrupt,
        callbacks: MakeCallbacks<'_>,
    ) -> Result<RunOutcome, RankFailure<TrainError>> {
        self.trainer.fit_in(folder, &self.config, &self.plan, ranks, interrupt, callbacks)
    }
}

/// Points what the recipe or the trainer refuses at the lines of the configuration it is about.
fn with_places(loaded: &Loaded, error: TrainError) -> PrepareError {
    let split =
        ["tensor_parallel", "dp_shard", "preset"].map(|key| format!("device_parameters.{key}"));
    let model = || "model".to_owned();
    let error = match error {
        TrainError::Hook { hook, source } => match source.downcast::<RefusedKeys>() {
            Ok(refused) => {
                let RefusedKeys { keys, source } = *refused;
                loaded.refuse_keys(&keys, source)
            }
            Err(source) if hook == "check" => loaded.refuse_keys(&[model()], source),
            Err(source) => {
                let keys: Vec<String> = [model()].into_iter().chain(split).collect();
                loaded.refuse_keys(&keys, Box::new(TrainError::Hook { hook, source }))
            }
        },
        TrainError::NoHiddenMatrix => {
            loaded.refuse_keys(&["optimizer.name".into()], Box::new(error))
        }
        TrainError::MissingCapability { .. } => loaded.refuse_keys(&split, Box::new(error)),
        other => return other.into(),
    };
    ConfigErrors::from(error).into()
}
