//! Callbacks: what listens to a run without being part of its mathematics.
//!
//! A [`Callback`] sees the events of a run; a [`CallbackSet`] tells them to all of them in order.
//! [`build`] makes the standard set of a configuration.
//!
//! | callback | what it does |
//! | --- | --- |
//! | [`LearningRateLogger`] | adds the learning rate of each optimizer to the metrics when there are several |
//! | [`MetricLogger`] | keeps steps and validations in `metrics.jsonl` or `TensorBoard` event files |
//! | [`PrecisionRecord`] | keeps the element types of the live tensors in `precision.json` |
//! | [`TrainerSummary`] | prints model, mesh, batch, data and optimizers before the first step, element types after it |
//! | [`ProgressBar`] | draws step, loss, gradient norm, tokens/s and time left on a terminal |
//! | [`ConsoleLine`] | prints a line per few steps, validation and checkpoint |
//! | [`Benchmark`] | prints medians after a warm-up |

mod benchmark;
mod build;
mod callback;
mod callback_set;
mod config;
mod console;
mod console_line;
mod learning_rate;
mod metric_logger;
mod model_summary;
mod precision_record;
mod progress_bar;
mod requests;
mod trainer_summary;

pub use benchmark::{Benchmark, BenchmarkReport};
pub use build::{Verbosity, build};
pub use callback::{
    BatchShape, Callback, CallbackError, CallbackResult, Interruption, MemoryUse, ParameterRow,
    Requests, RunView, SetupReport,
};
pub use callback_set::{CallbackSet, DuplicateCallback};
pub use config::{BenchmarkConfig, CallbacksConfig};
pub use console::Terminal;
pub(crate) use console::{StandardStream, finish_console};
pub use console_line::ConsoleLine;
pub use learning_rate::LearningRateLogger;
pub use metric_logger::MetricLogger;
pub use model_summary::{ModelSummary, ModuleRow};
pub use precision_record::PrecisionRecord;
pub use progress_bar::ProgressBar;
pub use requests::MergedRequests;
pub use trainer_summary::TrainerSummary;
