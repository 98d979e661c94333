//! The events of a run and the trait that listens to them.
//!
//! What the model *is* belongs in a setup trait; what the trainer is *doing* is seen here.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::mesh::DeviceMesh;
use crate::metrics::{PrecisionReport, StepInfo, Utilization, ValidationInfo};

/// A callback that could not do its work.
#[derive(Debug, thiserror::Error)]
#[error("callback `{callback}` failed during {event}")]
pub struct CallbackError {
    /// Name of the callback.
    pub callback: String,
    /// Event it was handling.
    pub event: &'static str,
    /// What went wrong.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// What a callback's event returns: any error, to which the trainer adds callback and event.
pub type CallbackResult = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// The run a callback takes part in; fixed from launch to teardown.
#[derive(Debug, Clone)]
pub struct RunView {
    /// Folder of the run.
    pub directory: PathBuf,
    /// Name of the run as `project/group/experiment`.
    pub name: String,
    /// Global rank of this process or thread.
    pub rank: usize,
    /// Mesh of the run.
    pub mesh: DeviceMesh,
    /// Optimizer steps the run will have done at its end.
    pub num_steps: u64,
    /// Optimizer steps done when this start began; above 0 after a resume.
    pub start_step: u64,
    /// Labels per optimizer step when none is masked.
    pub tokens_per_step: u64,
    /// Resolved configuration, as TOML text.
    pub config: String,
}

impl RunView {
    /// Returns what turns step seconds into model FLOPs utilization, if both the model's work and
    /// the device's peak are known.
    pub fn utilization(
        &self,
        report: &SetupReport,
        peak_flops: Option<f64>,
    ) -> Option<Utilization> {
        Some(Utilization {
            flops_per_token: report.flops_per_token?,
            peak_flops: peak_flops?,
            tokens_per_step: self.tokens_per_step,
            num_ranks: self.mesh.world_size(),
        })
    }
}

/// One row of the model table.
#[derive(Debug, Clone, PartialEq)]
pub struct ParameterRow {
    /// Dotted parameter path.
    pub path: String,
    /// Global shape.
    pub shape: Vec<usize>,
    /// Whether an optimizer updates it.
    pub trainable: bool,
    /// Bytes of one stored element.
    pub element_bytes: usize,
}

/// How the sequences of one optimizer step come about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchShape {
    /// Sequences per optimizer step, over all ranks and accumulation steps.
    pub global_batch_size: usize,
    /// Sequences per forward pass of one data-parallel rank.
    pub micro_batch_size: usize,
    /// Forward and backward passes per optimizer step.
    pub gradient_accumulation_steps: usize,
    /// Tokens per sequence.
    pub sequence_length: usize,
}

/// What was built, told once before the first step.
#[derive(Debug, Clone)]
pub struct SetupReport {
    /// Recipe name.
    pub model: String,
    /// Parameters in path order.
    pub parameters: Vec<ParameterRow>,
    /// Sequences of a step.
    pub batch: BatchShape,
    /// Training data in one line.
    pub train_data: String,
    /// Validation data in one line, if there is any.
    pub validation_data: Option<String>,
    /// Optimizers in one line each.
    pub optimizers: Vec<String>,
    /// Floating-point operations per trained token, if the model tells.
    pub flops_per_token: Option<f64>,
    /// Estimated bytes of [`MemoryUse::activation_bytes`], if the model tells.
    pub activation_estimate: Option<u64>,
}

/// What the first step of a start showed of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryUse {
    /// Elements of the parameters that a rank holds, on the rank that holds most.
    pub rank_parameters: u64,
    /// Most bytes that operations held for the backward pass at one time, weights aside, on the rank
    /// that held most; none on a GPU, where operations do not tell.
    pub activation_bytes: Option<u64>,
    /// The estimate of [`ModelSetup::activation_bytes`](crate::train::ModelSetup::activation_bytes),
    /// if the model tells.
    pub activation_estimate: Option<u64>,
}

/// Why a run ended early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Interruption {
    /// SIGINT (Ctrl-C), SIGTERM or SIGHUP.
    Signal,
    /// A callback asked for it.
    Requested {
        /// Name of the callback.
        callback: String,
    },
    /// An error, as text.
    Failed(String),
}

/// What a callback may ask of the trainer after a step. Requests are honored at the end of that
/// step, on all ranks together.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Requests {
    /// Saves a checkpoint.
    pub save: bool,
    /// Validates.
    pub validate: bool,
    /// Ends the run cleanly.
    pub stop: bool,
}

/// Listens to a run.
///
/// Events arrive in this order: `pre_launch`, `pre_configure`, `post_configure`, `pre_setup`,
/// `post_setup`, `pre_fit`, then per epoch `pre_epoch`, steps, `post_epoch`, and at the end
/// `post_fit` or `on_interrupt`. A step is `pre_train_step`, `pre_optimizer_step` and
/// `post_optimizer_step` per optimizer, `post_train_step`; the first is followed by
/// `post_first_step`, the first that updates by `post_first_update`. A validation is
/// `pre_validation`, `post_validation_step` per batch, `post_validation`.
#[expect(unused_variables, reason = "default methods ignore what they are told")]
pub trait Callback: Send {
    /// Returns the name used in errors and as the key of saved state.
    fn name(&self) -> &str;

    /// Tells whether only global rank 0 runs it.
    fn rank_zero_only(&self) -> bool {
        true
    }

    /// Runs before ranks can talk to each other.
    fn pre_launch(&mut self, run: &RunView) -> CallbackResult {
        Ok(())
    }
    /// Runs before the model is configured.
    fn pre_configure(&mut self, run: &RunView) -> CallbackResult {
        Ok(())
    }
    /// Runs after the model is configured; its parameters hold no values yet.
    fn post_configure(&mut self, run: &RunView) -> CallbackResult {
        Ok(())
    }
    /// Runs before parallelisms are applied.
    fn pre_setup(&mut self, run: &RunView) -> CallbackResult {
        Ok(())
    }
    /// Runs when model, optimizers and data are ready.
    fn post_setup(&mut self, run: &RunView, report: &SetupReport) -> CallbackResult {
        Ok(())
    }
    /// Runs once before sanity validation and the first step, after a resume.
    fn pre_fit(&mut self, run: &RunView) -> CallbackResult {
        Ok(())
    }
    /// Runs before the first step of an epoch.
    fn pre_epoch(&mut self, run: &RunView, epoch: u64) -> CallbackResult {
        Ok(())
    }
    /// Runs after the last step of an epoch.
    fn post_epoch(&mut self, run: &RunView, epoch: u64) -> CallbackResult {
        Ok(())
    }
    /// Runs before the data of a step is fetched; `step` is the one about to be done, from 1.
    fn pre_train_step(&mut self, run: &RunView, step: u64) -> CallbackResult {
        Ok(())
    }
    /// Runs when gradients are complete and reduced, before they are clipped.
    fn pre_optimizer_step(&mut self, run: &RunView, optimizer: &str) -> CallbackResult {
        Ok(())
    }
    /// Runs after parameters were updated.
    fn post_optimizer_step(&mut self, run: &RunView, optimizer: &str, lr: f64) -> CallbackResult {
        Ok(())
    }
    /// Runs after a step.
    fn post_train_step(
        &mut self,
        run: &RunView,
        info: &StepInfo,
        requests: &mut Requests,
    ) -> CallbackResult {
        Ok(())
    }
    /// Runs after the first step of this start.
    fn post_first_step(&mut self, run: &RunView, memory: &MemoryUse) -> CallbackResult {
        Ok(())
    }
    /// Runs once, after the step of the first update that was not skipped, with the element types
    /// that this rank's tensors have.
    fn post_first_update(&mut self, run: &RunView, report: &PrecisionReport) -> CallbackResult {
        Ok(())
    }
    /// Runs before a validation.
    fn pre_validation(&mut self, run: &RunView, sanity: bool) -> CallbackResult {
        Ok(())
    }
    /// Runs after one global validation batch; `index` counts from 0 of `total`.
    fn post_validation_step(&mut self, run: &RunView, index: u64, total: u64) -> CallbackResult {
        Ok(())
    }
    /// Runs after a validation.
    fn post_validation(&mut self, run: &RunView, info: &ValidationInfo) -> CallbackResult {
        Ok(())
    }
    /// Runs after a checkpoint was committed.
    fn post_checkpoint(&mut self, run: &RunView, step: u64, path: &Path) -> CallbackResult {
        Ok(())
    }
    /// Runs after the last step and the last checkpoint of a complete run.
    fn post_fit(&mut self, run: &RunView) -> CallbackResult {
        Ok(())
    }
    /// Runs instead of `post_fit` when the run ends early.
    fn on_interrupt(&mut self, run: &RunView, why: &Interruption) -> CallbackResult {
        Ok(())
    }

    /// Returns what a checkpoint keeps of this callback.
    fn state(&self) -> Option<Value> {
        None
    }
    /// Takes back what [`Callback::state`] gave.
    fn load_state(&mut self, state: Value) -> CallbackResult {
        Ok(())
    }
}
