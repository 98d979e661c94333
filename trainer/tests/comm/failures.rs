//! Every way to fail ends on every rank, soon, and with names.

use std::panic::panic_any;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use dream_trainer::comm::{CommError, ProcessGroup, RankFault, ReduceOp};

use crate::harness::{PATIENT, SHORT, comm_error, failing, tensor, verdicts};

/// Bound on how long an error may take to reach a rank: far below any timeout of these tests.
const PROMPT: Duration = Duration::from_secs(20);

#[test]
fn calls_that_differ_fail_on_all_ranks_with_both_sides() {
    type Op = fn(&ProcessGroup) -> Result<(), CommError>;
    let rows: [(&str, Op, &str, Op, &str); 6] = [
        (
            "shape",
            |g| g.all_reduce(tensor([0.0_f32; 2]), ReduceOp::Sum).map(drop),
            "all_reduce(sum) of f32[2]",
            |g| g.all_reduce(tensor([0.0_f32; 3]), ReduceOp::Sum).map(drop),
            "all_reduce(sum) of f32[3]",
        ),
        (
            "element type",
            |g| g.all_gather(tensor([0.0_f32]), 0).map(drop),
            "all_gather(dim 0) of f32[1]",
            |g| g.all_gather(tensor([0_i32]), 0).map(drop),
            "all_gather(dim 0) of i32[1]",
        ),
        (
            "operation",
            |g| g.all_gather(tensor([0.0_f32]), 0).map(drop),
            "all_gather(dim 0) of f32[1]",
            |g| g.barrier(),
            "barrier",
        ),
        (
            "reduction",
            |g| g.all_reduce(tensor([0.0_f32]), ReduceOp::Sum).map(drop),
            "all_reduce(sum) of f32[1]",
            |g| g.all_reduce(tensor([0.0_f32]), ReduceOp::Max).map(drop),
            "all_reduce(max) of f32[1]",
        ),
        (
            "root",
            |g| g.broadcast(tensor([0.0_f32]), 0).map(drop),
            "broadcast(root 0) of f32[1]",
            |g| g.broadcast(tensor([0.0_f32]), 1).map(drop),
            "broadcast(root 1) of f32[1]",
        ),
        (
            "order of issue",
            |g| {
                let reduce = g.issue_all_reduce(tensor([0.0_f32]), ReduceOp::Sum)?;
                g.issue_barrier()?.wait()?;
                reduce.wait().map(drop)
            },
            "all_reduce(sum) of f32[1]",
            |g| {
                let barrier = g.issue_barrier()?;
                g.issue_all_reduce(tensor([0.0_f32]), ReduceOp::Sum)?.wait()?;
                barrier.wait()
            },
            "barrier",
        ),
    ];
    for (what, most, most_text, one, one_text) in rows {
        let start = Instant::now();
        let results = verdicts(3, PATIENT, |group| {
            group.barrier()?;
            if group.rank() == 1 { one(group) } else { most(group) }
        });
        assert!(start.elapsed() < PROMPT, "{what}");
        for result in results {
            let error = result.expect_err(what).to_string();
            assert!(error.starts_with("call 1 of group `world` differs"), "{error}");
            assert!(error.contains(&format!("rank 1 called {one_text} at ")), "{error}");
            assert!(error.contains(&format!("called {most_text} at ")), "{error}");
            assert!(error.contains("failures.rs:"), "{error}");
        }
    }
}

#[test]
fn a_late_rank_is_named_and_later_calls_fail_too() {
    let (together, given_up) = (Barrier::new(2), Barrier::new(3));
    let results = verdicts(3, SHORT, |group| {
        let call = || group.all_reduce(tensor([0.0_f32; 4]), ReduceOp::Sum).map(drop);
        if group.rank() == 2 {
            given_up.wait();
            return call();
        }
        together.wait();
        let result = call();
        given_up.wait();
        assert_eq!(call(), result);
        result
    });
    let errors: Vec<CommError> = results.into_iter().map(|r| r.expect_err("late")).collect();
    assert_eq!(errors[1], errors[0]);
    assert_eq!(errors[2], errors[0]);
    let error = errors[0].to_string();
    assert!(error.starts_with("call 0 of group `world`, all_reduce(sum) of f32[4] at "), "{error}");
    assert!(error.ends_with("waited 200ms for rank 2 (at call 0)"), "{error}");
}

#[test]
fn a_receive_of_a_tag_never_sent_times_out_with_names() {
    let given_up = Barrier::new(2);
    let results = verdicts(2, SHORT, |group| {
        if group.rank() == 0 {
            group.send(tensor([5.0_f32]), 1, 7)?;
            given_up.wait();
            return Ok(());
        }
        let result = group.recv(0, 8).map(drop);
        given_up.wait();
        result
    });
    let error = results[1].as_ref().expect_err("wrong tag").to_string();
    assert!(error.contains("recv on rank 1 of tag 8 from rank 0 at "), "{error}");
    let end = "waited 200ms for rank 0 (which sent tensors under other tags: [7])";
    assert!(error.ends_with(end), "{error}");
}

#[test]
fn an_erroring_rank_ends_all_others() {
    let start = Instant::now();
    let failure = failing(4, |group| {
        group.barrier()?;
        if group.rank() == 3 {
            return Err(CommError::Group { group: "mine".into(), problem: "test".into() });
        }
        if group.rank() == 0 { group.recv(1, 0).map(drop) } else { group.barrier() }
    });
    assert!(start.elapsed() < PROMPT);
    assert_eq!(failure.rank, 3);
    assert_eq!(failure.to_string(), "rank 3 failed: group `mine` cannot be made: test");
    let others: Vec<usize> = failure.others.iter().map(|(rank, _)| *rank).collect();
    assert_eq!(others, [0, 1, 2]);
    assert!(failure.others[0].1.starts_with("recv on rank 0 of tag 0 from rank 1 at "));
    assert!(failure.others[1].1.starts_with("call 1, barrier at "), "{:?}", failure.others);
    for (_, text) in failure.others {
        let reason = "stopped because rank 3 failed: group `mine` cannot be made: test";
        assert!(text.ends_with(reason), "{text}");
    }
}

#[test]
fn a_panicking_rank_ends_all_others() {
    let failure = failing(4, |group| {
        group.barrier()?;
        assert!(group.rank() != 2, "on purpose");
        // The others wait in an operation that was issued before the panic and one after.
        let work = group.issue_barrier()?;
        work.wait()?;
        group.barrier()
    });
    assert_eq!(failure.rank, 2);
    let RankFault::Panic(message) = &*failure.fault else { panic!("{failure}") };
    assert!(
        message.starts_with("on purpose (at ") && message.contains("failures.rs:"),
        "{message}"
    );
    assert_eq!(failure.others.len(), 3);
    for (_, text) in failure.others {
        assert!(text.contains("because rank 2 failed: panicked: on purpose"), "{text}");
    }
}

#[test]
fn an_error_thrown_through_a_panic_keeps_its_type() {
    let thrown = CommError::Group { group: "inner".into(), problem: "thrown".into() };
    let failure = failing(2, |group| {
        if group.rank() == 0 {
            panic_any(thrown.clone());
        }
        group.barrier()
    });
    assert!(matches!(&*failure.fault, RankFault::Comm(error) if *error == thrown));
    assert_eq!(failure.to_string(), format!("rank 0 failed: {thrown}"));
}

#[test]
fn a_rank_that_leaves_early_ends_those_who_wait_for_it() {
    let start = Instant::now();
    let failure = failing(3, |group| {
        // What the leaving rank has issued still completes.
        let work = group.issue_all_reduce(tensor([1_i32]), ReduceOp::Sum)?;
        if group.rank() == 1 {
            return Ok(());
        }
        work.wait()?;
        if group.rank() == 0 { group.recv(1, 0).map(drop) } else { group.barrier() }
    });
    assert!(start.elapsed() < PROMPT);
    let CommError::PeerFailed { rank, reason, .. } = comm_error(&failure.fault) else {
        panic!("{failure}")
    };
    // Either of the two that wait may be the first to fail; both because of rank 1.
    assert_eq!((*rank, reason.as_str()), (1, "finished without joining"));
}

#[test]
fn a_failure_inside_a_kernel_pool_is_caught_without_noise() {
    let failure = failing(2, |group| {
        if group.rank() == 1 {
            rayon::join(|| (), || panic!("in the pool"));
        }
        group.barrier()
    });
    assert_eq!(failure.rank, 1);
    assert!(failure.to_string().contains("panicked: in the pool"), "{failure}");
}
