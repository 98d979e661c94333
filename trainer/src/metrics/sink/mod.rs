//! Files that keep the numbers of a run.

mod appender;
mod jsonl;
mod metric_sink;
mod rows;
mod shared;
mod tensorboard;

pub use jsonl::JsonlSink;
pub use metric_sink::{MetricSink, SinkError};
pub use shared::SharedSink;
pub use tensorboard::TensorBoardSink;
