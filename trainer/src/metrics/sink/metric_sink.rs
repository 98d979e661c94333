//! The trait of a place that keeps metrics.

use std::io;
use std::path::{Path, PathBuf};

use crate::metrics::{StepInfo, ValidationInfo};

/// A metrics file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SinkError {
    /// The file or its folder cannot be created or opened.
    #[error("cannot open metrics file `{path}`")]
    Open {
        /// File or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A row cannot be written.
    #[error("cannot write metrics to `{path}`")]
    Write {
        /// File.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file was removed or replaced, so what is written to it is lost.
    #[error("metrics file `{path}` was removed or replaced")]
    Removed {
        /// File.
        path: PathBuf,
    },
    /// A row arrived before the file was opened.
    #[error("metrics arrived before `{sink}` was opened")]
    NotOpen {
        /// Name of the sink.
        sink: &'static str,
    },
}

/// A place that keeps the numbers of a run.
///
/// Rows reach the disk before a method returns, so that a killed run loses none.
pub trait MetricSink: Send {
    /// Returns the name used in warnings.
    fn name(&self) -> &'static str;

    /// Opens the sink in a run's folder and sets aside whatever it holds of steps after
    /// `start_step`, which are about to be done again. Nothing is erased.
    fn open(&mut self, directory: &Path, start_step: u64) -> Result<(), SinkError>;

    /// Adds a scalar to the row of the step in progress.
    fn annotate(&mut self, tag: &str, value: f64);

    /// Writes the row of a step.
    fn step(&mut self, info: &StepInfo) -> Result<(), SinkError>;

    /// Writes the row of a validation.
    fn validation(&mut self, info: &ValidationInfo) -> Result<(), SinkError>;
}
