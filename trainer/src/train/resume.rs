//! Continuing from a checkpoint: what it belongs to is compared, what was asked to begin anew does,
//! and everything else goes on.

use std::sync::Arc;

use burn::module::Module;

use super::identity::Recorded;
use super::layouts::Layouts;
use super::rank::hook;
use super::save::{self, Progress, SavedState};
use super::start::Start;
use super::step::Owned;
use super::weights::{self, CheckpointWeights};
use super::{BatchStream, RunPlan, TrainError, same_run};
use crate::callbacks::CallbackSet;
use crate::checkpoint::{Checkpoint, ResetPart, Selection};
use crate::optim::GradScaler;

/// A checkpoint that the run may continue from.
pub(crate) struct Resumed {
    checkpoint: Arc<Checkpoint>,
    saved: SavedState,
    reset: Vec<ResetPart>,
}

impl Resumed {
    /// Compares what the checkpoint to continue from belongs to with the run, and tells what has
    /// changed and what begins anew. Nothing for a fresh run.
    ///
    /// # Errors
    ///
    /// It belongs to another run.
    pub(crate) fn new(
        start: &Start,
        plan: &RunPlan,
        now: &Recorded,
    ) -> Result<Option<Self>, TrainError> {
        let Some(checkpoint) = start.checkpoint.clone() else { return Ok(None) };
        let step = checkpoint.step();
        let recorded = Recorded::read(&checkpoint)?;
        let verdict = same_run::judge(&recorded, now, &start.reset);
        if !verdict.refused.is_empty() {
            return Err(TrainError::OtherRun {
                path: checkpoint.path().to_path_buf(),
                differences: verdict.refused,
                resettable: verdict.resettable,
            });
        }
        if recorded.identity.is_none() {
            tracing::warn!(
                "the checkpoint of step {step} was written by a version that did not save what a run is; only its configuration was compared"
            );
        }
        if !start.reset.is_empty() {
            let parts = serde_json::to_value(&start.reset).unwrap_or_default();
            tracing::info!("begins anew at step {step}, as `checkpoint.reset` says: {parts}");
        }
        if !verdict.told.is_empty() {
            tracing::info!("changed since the checkpoint of step {step}:\n{}", verdict.told);
        }
        if let Some(path) = &plan.checkpoint.init_from {
            tracing::info!(
                "the run continues from step {step}, so `checkpoint.init_from` ({}) is not read",
                path.display()
            );
        }
        let saved = save::saved_state(&checkpoint)?;
        Ok(Some(Self { checkpoint, saved, reset: start.reset.clone() }))
    }

    /// Gives the model its weights.
    pub(crate) fn load_model<M: Module>(
        &self,
        model: M,
        layouts: &Layouts,
    ) -> Result<M, TrainError> {
        let source = CheckpointWeights(Arc::clone(&self.checkpoint));
        weights::load(model, &source, layouts, &Selection::default())
    }

    /// Returns the update at which the learning-rate schedule begins.
    pub(crate) fn schedule_start(&self) -> u64 {
        if self.resets(ResetPart::Schedule) {
            return self.saved.progress.step;
        }
        self.saved.schedule_start
    }

    /// Gives optimizers, data and callbacks their state back, and returns the counters.
    pub(crate) fn restore<M: Module, B>(
        self,
        model: &M,
        (optimizers, layouts): (&mut [Owned], &Layouts),
        grad_scaler: Option<&mut GradScaler>,
        data: &mut dyn BatchStream<B>,
        callbacks: &mut CallbackSet,
    ) -> Result<Progress, TrainError> {
        if !self.resets(ResetPart::Optimizer) {
            save::restore_optimizers(&self.checkpoint, &self.saved, model, optimizers, layouts)?;
            if let (Some(scaler), Some(state)) = (grad_scaler, self.saved.grad_scaler) {
                scaler.restore(state);
            }
        }
        if !self.resets(ResetPart::Data) {
            hook("restore data", data.restore(self.saved.data))?;
        }
        callbacks.load_state(self.saved.callbacks)?;
        Ok(self.saved.progress)
    }

    fn resets(&self, part: ResetPart) -> bool {
        self.reset.contains(&part)
    }
}
