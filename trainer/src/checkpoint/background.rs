//! Work off the training thread: one thread per save, joined before the next one and before the run
//! ends.

use std::path::Path;
use std::thread::{self, JoinHandle};

use super::error::CheckpointError;

/// A save, or a part of one, running on its own thread.
///
/// The training thread brings its tensors to host memory, hands them over and trains on:
///
/// ```text
/// step n      begin, barrier, Background::spawn(move || save.write_rank(rank, shards))
/// later step  wait on every rank, gather the rank files, commit on the first rank
/// ```
///
/// Waiting happens at a step every rank agrees on, because gathering is a collective. Nothing
/// counts as saved before the commit, so a process that dies in between falls back to the previous
/// checkpoint. Dropping waits, too: an exit path does not cut a write short.
#[derive(Debug)]
#[must_use = "an error of the background write is only reported by `wait`"]
pub struct Background<T> {
    worker: Option<JoinHandle<Result<T, CheckpointError>>>,
}

impl<T: Send + 'static> Background<T> {
    /// Runs `job` on a thread of its own.
    pub fn spawn(
        job: impl FnOnce() -> Result<T, CheckpointError> + Send + 'static,
    ) -> Result<Self, CheckpointError> {
        let worker = thread::Builder::new()
            .name("checkpoint".to_owned())
            .spawn(job)
            .map_err(CheckpointError::io("start a thread to write", Path::new("checkpoint")))?;
        Ok(Self { worker: Some(worker) })
    }
}

impl<T> Background<T> {
    /// Returns whether [`Background::wait`] would return at once.
    pub fn is_finished(&self) -> bool {
        self.worker.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for the job and returns its result.
    pub fn wait(mut self) -> Result<T, CheckpointError> {
        let worker = self.worker.take().expect("only `wait` and `drop` take the worker");
        worker.join().unwrap_or_else(|payload| {
            let message = panic_message(&*payload);
            Err(CheckpointError::WriterPanicked { message })
        })
    }
}

impl<T> Drop for Background<T> {
    fn drop(&mut self) {
        if let Some(worker) = self.worker.take() {
            // The owner chose not to ask; what was written stays uncommitted.
            drop(worker.join());
        }
    }
}

fn panic_message(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}
