//! Batches prepared in the background.

use std::{
    any::Any,
    sync::mpsc::{Receiver, sync_channel},
    thread::{self, JoinHandle},
};

use super::{Batch, DataError, Loader, LoaderState};

/// Prepares the batches of the next steps on one thread while the current step trains.
///
/// Its position is the one after the batches it handed out, not after those it prepared, so a
/// checkpoint skips none.
#[derive(Debug)]
pub struct Prefetcher {
    /// Stands where the first step after the last restore is; shares the data with the thread's
    /// own.
    loader: Loader,
    depth: usize,
    state: LoaderState,
    worker: Option<Worker>,
}

/// The batches of a step and the position behind them.
type Step = Result<(Vec<Batch>, LoaderState), DataError>;

#[derive(Debug)]
struct Worker {
    steps: Receiver<Step>,
    thread: JoinHandle<()>,
}

impl Prefetcher {
    /// Starts the thread, which keeps up to `depth` steps ready, at least one, and builds one more.
    pub fn new(loader: Loader, depth: usize) -> Result<Self, DataError> {
        let state = loader.state();
        let depth = depth.max(1);
        let worker = Some(Worker::prepare(loader.clone(), depth)?);
        Ok(Self { loader, depth, state, worker })
    }

    /// Returns the micro-batches of the next step, waiting for the thread where they are not ready.
    pub fn next_step(&mut self) -> Result<Vec<Batch>, DataError> {
        let stopped = |message: String| DataError::PrefetchStopped { message };
        let worker = self.worker.as_ref().ok_or_else(|| stopped("it failed before".into()))?;
        if let Ok(step) = worker.steps.recv() {
            let (batches, state) = step?;
            self.state = state;
            return Ok(batches);
        }
        let outcome = self.worker.take().map(|worker| worker.thread.join());
        Err(stopped(match outcome {
            Some(Err(panic)) => panic_message(panic.as_ref()),
            _ => "it ended without an error".into(),
        }))
    }

    /// Returns the position after the last step handed out.
    pub fn state(&self) -> LoaderState {
        self.state.clone()
    }

    /// Drops what is prepared and continues at a saved position, as [`Loader::restore`] does.
    pub fn restore(&mut self, state: &LoaderState) -> Result<(), DataError> {
        self.loader.restore(state)?;
        self.stop();
        self.state = self.loader.state();
        self.worker = Some(Worker::prepare(self.loader.clone(), self.depth)?);
        Ok(())
    }

    /// Returns the optimizer steps of an epoch.
    pub fn steps_per_epoch(&self) -> u64 {
        self.loader.steps_per_epoch()
    }

    /// Returns the steps that are left in the epoch of the next step, at least 1.
    pub fn steps_left_in_epoch(&self) -> u64 {
        self.loader.steps_left_after(self.state.sequences)
    }

    fn stop(&mut self) {
        if let Some(Worker { steps, thread }) = self.worker.take() {
            // Without a receiver the thread's next send fails, which ends it.
            drop(steps);
            drop(thread.join());
        }
    }
}

impl Drop for Prefetcher {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Worker {
    fn prepare(mut loader: Loader, depth: usize) -> Result<Self, DataError> {
        Self::spawn(depth, move || Ok((loader.next_step()?, loader.state())))
    }

    fn spawn(
        depth: usize,
        mut next: impl FnMut() -> Step + Send + 'static,
    ) -> Result<Self, DataError> {
        let (sender, steps) = sync_channel(depth);
        let thread = thread::Builder::new()
            .name("data-prefetch".into())
            .spawn(move || {
                loop {
                    let step = next();
                    // After an error there is nothing to go on with.
                    let is_last = step.is_err();
                    if sender.send(step).is_err() || is_last {
                        return;
                    }
                }
            })
            .map_err(|source| DataError::StartPrefetch { source })?;
        Ok(Self { steps, thread })
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "it panicked without a message".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{DataConfig, Dataset, LastBatch, LoaderOptions};

    fn loader() -> Loader {
        let plan = DataConfig::default().resolve().expect("the defaults are valid");
        let dataset = Dataset::open(&plan, 2, 0).expect("made-up data need no file").train;
        let options = LoaderOptions {
            seed: 0,
            shuffle: true,
            global_batch_size: 1,
            micro_batch_size: 1,
            dp_rank: 0,
            dp_size: 1,
            last_batch: LastBatch::Drop,
            number_documents: false,
        };
        Loader::new(dataset, options).expect("one sequence divides by one rank")
    }

    #[test]
    fn a_panic_of_the_thread_is_an_error_after_the_steps_before_it() {
        let mut prefetcher = Prefetcher::new(loader(), 1).expect("a thread starts");
        let mut inner = loader();
        let next = move || {
            assert!(inner.sequences() < 3, "no more than 3");
            Ok((inner.next_step()?, inner.state()))
        };
        prefetcher.stop();
        prefetcher.worker = Some(Worker::spawn(1, next).expect("a thread starts"));
        for _ in 0..3 {
            prefetcher.next_step().expect("the first three steps are there");
        }
        let message =
            |result: Result<_, DataError>| result.expect_err("there is no fourth step").to_string();
        assert!(message(prefetcher.next_step()).ends_with("stopped: no more than 3"));
        assert!(message(prefetcher.next_step()).ends_with("stopped: it failed before"));
    }
}
