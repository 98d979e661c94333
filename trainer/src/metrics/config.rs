//! The `[metrics]` table.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where numbers go and how often.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsConfig {
    /// Prints a console line at step 1 and every this many steps; 0 never.
    pub console_every_n_steps: u64,
    /// Appends every step to `metrics.jsonl` in the run's folder, numbers at full precision.
    pub jsonl: bool,
    /// Writes `TensorBoard` event files to `tensorboard/` in the run's folder.
    pub tensorboard: bool,
    /// Peak floating-point operations per second of one rank's device, for model FLOPs utilization.
    /// Without it the utilization is left out.
    pub peak_flops: Option<f64>,
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self { console_every_n_steps: 10, jsonl: true, tensorboard: false, peak_flops: None }
    }
}
