//! What a run measures and where the numbers go.
//!
//! [`StepInfo`] and [`ValidationInfo`] define every reported number once. A [`MetricSink`] keeps
//! them in a file: [`JsonlSink`] at full precision, [`TensorBoardSink`] for plots. [`SharedSink`]
//! makes sure that a full disk costs rows and never the run. `throughput` holds the statistics,
//! `line` and `format` the way numbers read on a console. [`PrecisionReport`] tells element types,
//! [`Trace`] records when every rank did what.

mod config;
mod definitions;
pub mod format;
mod line;
mod memory;
mod precision;
mod sink;
mod throughput;
mod trace;

pub use config::MetricsConfig;
pub use definitions::{StepInfo, ValidationInfo};
pub use line::{Progress, note_line, step_line, validation_line};
pub use memory::peak_memory_bytes;
pub use precision::{ElementCounts, PrecisionReport};
pub use sink::{JsonlSink, MetricSink, SharedSink, SinkError, TensorBoardSink};
pub use throughput::{Spread, TimeLeft, Utilization, median, model_flops_utilization};
pub use trace::{Trace, TraceWindow};
