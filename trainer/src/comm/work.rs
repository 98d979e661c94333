//! [`Work`]: a collective under way.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Instant;

use burn::tensor::TensorData;
use tracing::Span;

use super::{CommCounters, CommError, Pending};

/// Stands for a collective that was issued and whose result is still to come.
///
/// Operations of a group complete in the order they were issued. A rank that waits carries the
/// operations forward, so ranks that compute are not disturbed and no operation needs a thread of
/// its own. Dropping the work gives up the result; the peers still get theirs.
#[derive(Debug)]
#[must_use = "the result of a collective is only there after `wait`"]
pub struct Work<T = TensorData> {
    state: State,
    result: PhantomData<fn() -> T>,
}

#[derive(Debug)]
enum State {
    Done(Option<TensorData>),
    Pending(Box<dyn Pending>, InFlight),
}

/// Watches an operation under way, whatever memory its tensors lie in.
#[derive(Debug)]
pub(super) struct InFlight {
    /// Lasts from the issue to the end of the wait.
    span: Span,
    counters: Arc<CommCounters>,
}

impl InFlight {
    pub(super) fn new(span: Span, counters: Arc<CommCounters>) -> Self {
        Self { span, counters }
    }

    /// Traces and counts the time until a result is there.
    pub(super) fn watch<T>(self, wait: impl FnOnce() -> T) -> T {
        let _waits = tracing::trace_span!(parent: &self.span, "wait").entered();
        let begin = Instant::now();
        let result = wait();
        self.counters.record_wait(begin.elapsed());
        result
    }
}

impl<T: Outcome> Work<T> {
    pub(super) fn done(result: Option<TensorData>) -> Self {
        Self { state: State::Done(result), result: PhantomData }
    }

    pub(super) fn pending(pending: Box<dyn Pending>, in_flight: InFlight) -> Self {
        Self { state: State::Pending(pending, in_flight), result: PhantomData }
    }

    /// Waits for the end of the operation and returns what this member gets.
    ///
    /// # Errors
    ///
    /// The group failed, or members did not come in time.
    pub fn wait(self) -> Result<T, CommError> {
        let result = match self.state {
            State::Done(result) => result,
            State::Pending(pending, in_flight) => in_flight.watch(|| pending.wait())?,
        };
        Ok(T::from_result(result))
    }
}

/// Converts what a transport returns into what an operation promises.
pub trait Outcome: sealed::Sealed {
    /// Converts the result.
    fn from_result(result: Option<TensorData>) -> Self;
}

impl Outcome for TensorData {
    fn from_result(result: Option<TensorData>) -> Self {
        result.expect("operations typed to return a tensor return one on every member")
    }
}

impl Outcome for Option<TensorData> {
    fn from_result(result: Option<TensorData>) -> Self {
        result
    }
}

impl Outcome for () {
    fn from_result(_: Option<TensorData>) -> Self {}
}

mod sealed {
    use super::TensorData;

    pub trait Sealed {}
    impl Sealed for TensorData {}
    impl Sealed for Option<TensorData> {}
    impl Sealed for () {}
}
