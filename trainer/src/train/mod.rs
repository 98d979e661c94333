//! The training loop and the traits it is composed of.
//!
//! A user implements [`ModelSetup`] and [`TrainingStep`], and one `Apply*` trait per parallelism; a
//! [`Trainer`] composes them. `rank.rs` spells the lifecycle in order, `fit.rs` the loop.

mod batch;
mod compare;
mod config;
mod device;
mod error;
mod fit;
mod identity;
mod interrupt;
mod layouts;
mod muon;
mod needs;
mod placements;
mod plan;
mod precision;
mod rank;
mod replicate;
mod request;
mod resume;
mod same_run;
mod save;
mod saving;
mod setup;
mod start;
mod step;
mod trainer;
mod weights;

pub use batch::{Batch, BatchStream, DataContext, Streams, TokenBatch};
pub use compare::{Difference, Differences};
pub use config::{NonFinitePolicy, RunConfig, TrainingParameters};
pub(crate) use device::device_of;
pub use error::{BoxError, RefusedKeys, Result, TrainError};
pub use interrupt::Interrupt;
pub use needs::HostBytes;
pub use placements::{HeldParameter, Placements};
pub use plan::{RunLength, RunPlan, TrainingPlan};
pub use replicate::Replicate;
pub(crate) use saving::gather_text;
pub use setup::{
    ApplyActivationCheckpointing, ApplyFullyShard, ApplyReplicate, ApplyTensorParallel, Loss, MAIN,
    ModelSetup, OptimizerScope, SetupContext, TrainingStep, WeightSource,
};
pub use step::StepContext;
pub use trainer::{RunOutcome, Trainer};
