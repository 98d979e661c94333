//! What the tests share: worlds with short timeouts, and tensors in short form.

use std::fmt::Debug;
use std::time::Duration;

use burn::tensor::{Element, TensorData};
use dream_trainer::comm::{
    CommError, CommTimeouts, ProcessGroup, RankContext, RankFailure, RankFault, launch_threads,
};

/// Long enough for a busy machine.
pub(crate) const PATIENT: Duration = Duration::from_mins(1);
/// Short enough to test that a wait ends.
pub(crate) const SHORT: Duration = Duration::from_millis(200);

/// Runs `body` on the world group of `n` ranks and returns the results in rank order.
pub(crate) fn run<T: Send>(
    n: usize,
    body: impl Fn(&ProcessGroup) -> Result<T, CommError> + Sync,
) -> Vec<T> {
    let run = |ctx: RankContext| body(&ctx.world_group());
    match launch_threads(n, CommTimeouts::uniform(PATIENT), run) {
        Ok(results) => results,
        Err(failure) => panic!("{failure}"),
    }
}

/// Runs `body` on `n` ranks, each of which gives its own verdict, so that no failure ends the world
/// early.
pub(crate) fn verdicts<T: Send>(
    n: usize,
    limit: Duration,
    body: impl Fn(&ProcessGroup) -> Result<T, CommError> + Sync,
) -> Vec<Result<T, CommError>> {
    let run = |ctx: RankContext| Ok::<_, CommError>(body(&ctx.world_group()));
    launch_threads(n, CommTimeouts::uniform(limit), run).expect("verdicts are not failures")
}

/// Runs a world that must fail.
pub(crate) fn failing<T: Send + Debug>(
    n: usize,
    body: impl Fn(&ProcessGroup) -> Result<T, CommError> + Sync,
) -> RankFailure<CommError> {
    let run = |ctx: RankContext| body(&ctx.world_group());
    launch_threads(n, CommTimeouts::uniform(PATIENT), run).expect_err("a rank fails")
}

/// Returns a vector as a tensor of one dimension.
pub(crate) fn tensor<E: Element>(values: impl Into<Vec<E>>) -> TensorData {
    let values = values.into();
    let length = values.len();
    TensorData::new(values, [length])
}

/// Returns the values of a tensor.
pub(crate) fn values<E: Element>(data: &TensorData) -> Vec<E> {
    data.as_slice::<E>().expect("the element type of the test").to_vec()
}

/// Returns the communication error of a rank's failure.
pub(crate) fn comm_error(fault: &RankFault<CommError>) -> &CommError {
    match fault {
        RankFault::Error(error) | RankFault::Comm(error) => error,
        RankFault::Start(error) => panic!("{error}"),
        RankFault::Panic(message) => panic!("panicked: {message}"),
    }
}
