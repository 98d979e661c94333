//! All tables of a configuration file.

use schemars::JsonSchema;

use super::{device::DeviceParameters, model::ModelTable};
use crate::{
    callbacks::CallbacksConfig,
    checkpoint::CheckpointConfig,
    data::DataConfig,
    metrics::MetricsConfig,
    optim::{LrSchedulerConfig, OptimizerConfig},
    train::{RunConfig, TrainingParameters},
};

/// A configuration as declared: defaults filled in, nothing worked out yet.
#[derive(Debug, Clone, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Config {
    /// Names the run and fixes its randomness.
    #[schemars(default)]
    pub run: RunConfig,
    /// Chooses the ranks, the mesh they form and how the model uses it. The product of the five
    /// degrees is the number of ranks; at most one degree is `"auto"` and takes what the others
    /// leave.
    #[schemars(default)]
    pub device_parameters: DeviceParameters,
    /// Fixes how many steps are taken, over how many tokens each, and when validation runs.
    #[schemars(default)]
    pub training_parameters: TrainingParameters,
    /// Chooses the recipe by `name`; the other keys belong to it.
    pub model: ModelTable,
    /// Chooses the optimizer and its settings.
    #[schemars(default)]
    pub optimizer: OptimizerConfig,
    /// Shapes the learning rate over the run; the factor it gives multiplies `optimizer.lr`.
    #[schemars(default)]
    pub lr_scheduler: LrSchedulerConfig,
    /// Chooses the data, how it becomes tokens and how tokens become sequences.
    #[schemars(default)]
    pub data: DataConfig,
    /// Says when state is saved, how much of it is kept, and where a run starts from.
    #[schemars(default)]
    pub checkpoint: CheckpointConfig,
    /// Says where numbers go and how often.
    #[schemars(default)]
    pub metrics: MetricsConfig,
    /// Switches the built-in callbacks.
    #[schemars(default)]
    pub callbacks: CallbacksConfig,
}
