//! Optimizers on local shards, learning-rate schedules and global-norm clipping.
//!
//! An [`Optimizer`] holds state by parameter path and updates one flat parameter at a time, so the
//! same code serves whole and sharded parameters. Nothing here lives on an autodiff device.

mod clip;
mod config;
mod error;
mod grad_scaler;
mod optimizer;
mod plan;
mod schedule;

pub use clip::clip_scale;
pub use config::{
    DecayShape, LrSchedulerConfig, OptimizerConfig, OptimizerName, ParamGroupConfig, ScheduleName,
};
pub use error::OptimError;
pub use grad_scaler::{GradScaler, GradScalerConfig, GradScalerState};
pub use optimizer::Optimizer;
pub use plan::{Algorithm, OptimizerPlan, ParamSettings};
pub use schedule::LrSchedule;
