//! The numbers a run reports, defined once.

use serde::{Deserialize, Serialize};

/// What one optimizer step reports, equal on every rank.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepInfo {
    /// Optimizer steps done, this one included; the first step is 1.
    pub step: u64,
    /// Passes over the training data begun before this step, counted from 0.
    pub epoch: u64,
    /// Sum of token losses over all ranks divided by the global number of labels that count.
    pub loss: f64,
    /// Global L2 norm of all gradients before clipping.
    pub grad_norm: f64,
    /// Learning rate of the first optimizer in this step.
    pub lr: f64,
    /// Labels that counted in this step, over all ranks.
    pub tokens: u64,
    /// Labels that counted since the run began, resumed parts included.
    pub total_tokens: u64,
    /// Wall-clock seconds of this step.
    pub step_seconds: f64,
    /// Part of `step_seconds` spent waiting for data.
    pub data_seconds: f64,
    /// Part of `step_seconds` that this rank waited for collectives: communication that no
    /// computation hid, and the lateness of other ranks.
    pub communication_seconds: f64,
    /// `tokens / step_seconds`, over all ranks.
    pub tokens_per_second: f64,
    /// Bytes that this rank's process has reserved on its GPU after the step, in use or kept for later;
    /// none on the CPU.
    pub gpu_bytes: Option<u64>,
    /// Whether the update was dropped because a number was not finite.
    pub skipped: bool,
    /// Factor that the loss was multiplied by for the backward pass, if `f16` needed one.
    pub loss_scale: Option<f64>,
    /// Scalars that a user's training step reported, summed over microbatches as it asked for.
    pub extra: std::collections::BTreeMap<String, f64>,
}

/// What one validation reports, equal on every rank.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ValidationInfo {
    /// Optimizer steps done when it ran.
    pub step: u64,
    /// Whether it is the sanity validation before the first step, whose numbers are not logged as
    /// results.
    pub sanity: bool,
    /// Mean token loss over the whole validation, not a mean of batch means.
    pub loss: f64,
    /// Labels that counted, over all ranks.
    pub tokens: u64,
    /// Wall-clock seconds.
    pub seconds: f64,
}
