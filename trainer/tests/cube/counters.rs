//! Collectives of device tensors are counted like those of host data.

use std::time::Duration;

use dream_trainer::comm::differentiable::{Consumer, all_reduce};

use crate::harness::{ranks, read, tensor};

#[test]
fn calls_bytes_and_waiting_are_counted() {
    ranks(2, |group| {
        let x = tensor::<2>(1, [4, 8]);
        read(all_reduce(x, Consumer::Replicated, group));
        let counters = group.counters();
        let seen = counters.snapshot()["all_reduce"];
        assert_eq!((seen.calls, seen.bytes), (1, 4 * 8 * 4));
        assert!(counters.waited() > Duration::ZERO);
    });
}
