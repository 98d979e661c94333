//! Ranks that disagree about device tensors learn it, and a rank that fails ends the others.

use std::time::Duration;

use burn::tensor::Tensor;
use dream_trainer::comm::differentiable::{Consumer, all_reduce};
use dream_trainer::comm::{CommError, CommTimeouts, RankContext, RankFault, launch_threads};

use crate::harness::{read, tensor};

fn run(body: impl Fn(&RankContext) -> Tensor<2> + Sync) -> RankFault<String> {
    let timeouts = CommTimeouts::uniform(Duration::from_secs(5));
    let failure = launch_threads(2, timeouts, |ctx| Ok::<_, String>(read(body(&ctx))))
        .expect_err("the ranks disagree");
    *failure.fault
}

#[test]
fn different_shapes_on_a_device_are_an_error_on_all_ranks() {
    let fault = run(|ctx| {
        let x = tensor::<2>(1, [2 + ctx.rank(), 3]);
        all_reduce(x, Consumer::Replicated, &ctx.world_group())
    });
    let RankFault::Comm(CommError::Mismatch { first, second, .. }) = fault else {
        panic!("not a mismatch: {fault}")
    };
    let calls = format!("{first} {second}");
    assert!(calls.contains("f32[2, 3] on a device"), "{calls}");
    assert!(calls.contains("f32[3, 3] on a device"), "{calls}");
}

#[test]
fn a_rank_that_does_not_come_is_named() {
    let fault = run(|ctx| {
        let x = tensor::<2>(1, [2, 3]);
        match ctx.rank() {
            0 => all_reduce(x, Consumer::Replicated, &ctx.world_group()),
            _ => x,
        }
    });
    let RankFault::Comm(CommError::PeerFailed { rank, .. }) = fault else {
        panic!("not a missing peer: {fault}")
    };
    assert_eq!(rank, 1);
}
