//! A sink whose failures cost rows and never the run.

use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{MetricSink, SinkError};
use crate::metrics::{StepInfo, ValidationInfo};

/// A handle to a sink that several callbacks write to.
///
/// Opening reports its error, because nothing is lost yet and the user can still act. From then on
/// the first failed row is a warning, further ones are counted in silence, the first row that
/// succeeds again says how many were lost, and so does the end of the run: a full disk must neither
/// end a run nor hide.
#[derive(Clone)]
pub struct SharedSink(Arc<Mutex<Guarded>>);

struct Guarded {
    sink: Box<dyn MetricSink>,
    /// Rows lost since one was written.
    lost_rows: u64,
    /// Rows lost since the sink was opened.
    lost_in_all: u64,
}

impl SharedSink {
    /// Wraps a sink.
    pub fn new(sink: impl MetricSink + 'static) -> Self {
        let sink = Box::new(sink);
        Self(Arc::new(Mutex::new(Guarded { sink, lost_rows: 0, lost_in_all: 0 })))
    }

    /// Returns the name of the sink.
    pub fn name(&self) -> &'static str {
        self.lock().sink.name()
    }

    /// Opens the sink; see [`MetricSink::open`].
    pub fn open(&self, directory: &Path, start_step: u64) -> Result<(), SinkError> {
        self.lock().sink.open(directory, start_step)
    }

    /// Adds a scalar to the row of the step in progress.
    pub fn annotate(&self, tag: &str, value: f64) {
        self.lock().sink.annotate(tag, value);
    }

    /// Writes the row of a step, or warns.
    pub fn step(&self, info: &StepInfo) {
        self.lock().write(|sink| sink.step(info));
    }

    /// Writes the row of a validation, or warns.
    pub fn validation(&self, info: &ValidationInfo) {
        self.lock().write(|sink| sink.validation(info));
    }

    /// Warns at the end of a run if rows were lost, and returns how many.
    pub fn finish(&self) -> u64 {
        let guarded = self.lock();
        if guarded.lost_in_all > 0 {
            let (sink, lost_rows) = (guarded.sink.name(), guarded.lost_in_all);
            tracing::warn!(sink, lost_rows, "the metrics of this run are not complete");
        }
        guarded.lost_in_all
    }

    fn lock(&self) -> MutexGuard<'_, Guarded> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guarded {
    fn write(&mut self, row: impl FnOnce(&mut dyn MetricSink) -> Result<(), SinkError>) {
        let result = row(self.sink.as_mut());
        let sink = self.sink.name();
        match result {
            Ok(()) if self.lost_rows > 0 => {
                tracing::warn!(sink, lost_rows = self.lost_rows, "metrics are written again");
                self.lost_rows = 0;
            }
            Ok(()) => {}
            Err(error) => {
                if self.lost_rows == 0 {
                    tracing::warn!(
                        sink,
                        error = chain(&error),
                        "metrics are lost, training goes on"
                    );
                }
                self.lost_rows += 1;
                self.lost_in_all += 1;
            }
        }
    }
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let _ = write!(text, ": {inner}");
        source = inner.source();
    }
    text
}
