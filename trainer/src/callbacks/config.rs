//! The `[callbacks]` table.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Switches the built-in callbacks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CallbacksConfig {
    /// Shows a progress bar with step, loss, gradient norm, tokens/s and time left when standard
    /// error is a terminal.
    pub progress_bar: bool,
    /// Prints a table of the model, the mesh and the data before the first step.
    pub summary: bool,
    /// Times steps after a warm-up and prints medians at the end.
    pub benchmark: BenchmarkConfig,
}

impl Default for CallbacksConfig {
    fn default() -> Self {
        Self { progress_bar: true, summary: true, benchmark: BenchmarkConfig::default() }
    }
}

/// Settings of the benchmark callback.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BenchmarkConfig {
    /// Turns the callback on.
    pub enable: bool,
    /// Steps left out of the statistics at the start.
    pub warmup_steps: u64,
}

impl Default for BenchmarkConfig {
    fn default() -> Self {
        Self { enable: false, warmup_steps: 3 }
    }
}
