//! Where ranks wait until all of them are there, so that none begins a run that cannot start.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use rayon::{ThreadPool, ThreadPoolBuildError};

use super::StartError;

/// Opens when every rank has its threads, or tells all of them that one has not.
pub(super) struct Gate {
    num_ranks: usize,
    num_threads: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    ready: usize,
    failure: Option<StartError>,
}

impl Gate {
    pub(super) fn new(num_ranks: usize, num_threads: usize) -> Self {
        Self { num_ranks, num_threads, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Waits for the other ranks with the pool of this one; gives it back unless a rank failed.
    pub(super) fn pass(
        &self,
        rank: usize,
        pool: Result<ThreadPool, ThreadPoolBuildError>,
    ) -> Option<ThreadPool> {
        let pool = match pool {
            Ok(pool) => pool,
            Err(error) => {
                self.fail("a compute thread", rank, error.into());
                return None;
            }
        };
        let mut state = self.lock();
        state.ready += 1;
        self.changed.notify_all();
        let waits = |state: &mut State| state.ready < self.num_ranks && state.failure.is_none();
        let state = self.changed.wait_while(state, waits).unwrap_or_else(PoisonError::into_inner);
        state.failure.is_none().then_some(pool)
    }

    /// Sends every rank away.
    pub(super) fn fail(
        &self,
        what: &'static str,
        rank: usize,
        source: Box<dyn std::error::Error + Send + Sync>,
    ) {
        let (num_ranks, num_threads) = (self.num_ranks, self.num_threads);
        let failure = StartError::Thread { what, rank, num_ranks, num_threads, source };
        self.lock().failure.get_or_insert(failure);
        self.changed.notify_all();
    }

    pub(super) fn into_failure(self) -> Option<StartError> {
        self.state.into_inner().unwrap_or_else(PoisonError::into_inner).failure
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
