//! Collectives that are issued first and waited for later.

use std::time::{Duration, Instant};

use dream_trainer::comm::{CommError, ProcessGroup, ReduceOp};

use crate::harness::{run, tensor, values};

#[test]
fn issue_returns_before_peers_come() {
    run(2, |group| {
        if group.rank() == 0 {
            let work = group.issue_all_reduce(tensor([1.0_f32]), ReduceOp::Sum)?;
            // The peer only takes part after this message, so issue cannot have waited for it.
            group.send(tensor([0_u8]), 1, 0)?;
            assert_eq!(values::<f32>(&work.wait()?), [2.0]);
        } else {
            group.recv(0, 0)?;
            group.all_reduce(tensor([1.0_f32]), ReduceOp::Sum)?;
        }
        Ok(())
    });
}

#[test]
fn a_waiter_needs_no_help_from_peers_that_issued() {
    run(3, |group| {
        let root = 1;
        let work = group.issue_broadcast(tensor([group.rank() as f32; 3]), root)?;
        if group.rank() == root {
            // The peers wait for this message before they wait for the broadcast.
            assert_eq!(values::<f32>(&work.wait()?), [1.0; 3]);
            for to in [0, 2] {
                group.send(tensor([0_u8]), to, 0)?;
            }
        } else {
            group.recv(root, 0)?;
            assert_eq!(values::<f32>(&work.wait()?), [1.0; 3]);
        }
        Ok(())
    });
}

#[test]
fn outstanding_works_may_be_waited_for_in_any_order() {
    run(4, |group| {
        let r = group.rank() as i32;
        let issue = |i: i32| group.issue_all_reduce(tensor([r + i; 5]), ReduceOp::Sum);
        let works = (0..6).map(issue).collect::<Result<Vec<_>, _>>()?;
        let gather = group.issue_all_gather(tensor([r]), 0)?;
        assert_eq!(values::<i32>(&gather.wait()?), [0, 1, 2, 3]);
        for (i, work) in works.into_iter().enumerate().rev() {
            assert_eq!(values::<i32>(&work.wait()?), [6 + 4 * i as i32; 5]);
        }
        Ok(())
    });
}

#[test]
fn a_dropped_work_does_not_hold_up_its_peers() {
    run(3, |group| {
        for round in 0..3 {
            let work = group.issue_all_reduce(tensor([1.0_f32]), ReduceOp::Sum)?;
            if group.rank() == round {
                drop(work);
            } else {
                assert_eq!(values::<f32>(&work.wait()?), [3.0]);
            }
        }
        group.barrier()
    });
}

#[test]
fn receives_get_tensors_in_the_order_they_were_issued() {
    run(2, |group| {
        if group.rank() == 0 {
            for i in 0..4 {
                group.send(tensor([i]), 1, 9)?;
            }
            return group.barrier();
        }
        let first = group.issue_recv(0, 9)?;
        let second = group.issue_recv(0, 9)?;
        let dropped = group.issue_recv(0, 9)?;
        assert_eq!(values::<i32>(&second.wait()?), [1]);
        assert_eq!(values::<i32>(&first.wait()?), [0]);
        drop(dropped);
        assert_eq!(values::<i32>(&group.recv(0, 9)?), [2]);
        group.barrier()
    });
}

#[test]
fn a_barrier_holds_everyone_until_the_last() {
    let times = run(4, |group| {
        std::thread::sleep(Duration::from_millis(50 * group.rank() as u64));
        let entry = Instant::now();
        group.barrier()?;
        Ok((entry, Instant::now()))
    });
    let latest = times.iter().map(|(entry, _)| *entry).max().expect("four ranks");
    assert!(times.iter().all(|(_, exit)| *exit >= latest));
}

#[test]
fn five_hundred_mixed_operations() {
    fn round(group: &ProcessGroup, i: usize) -> Result<(), CommError> {
        let (r, n) = (group.rank(), group.size());
        let mine = || tensor((0..n * (i % 7)).map(|k| (k + r) as i32).collect::<Vec<_>>());
        match i % 6 {
            0 => group.all_reduce(mine(), ReduceOp::Sum).map(drop),
            1 => group.issue_all_gather(mine(), 0).map(drop),
            2 => group.reduce_scatter(mine(), 0, ReduceOp::Max).map(drop),
            3 => {
                group.send(tensor([i as i32]), (r + 1) % n, i as u64)?;
                let received = group.recv((r + n - 1) % n, i as u64)?;
                assert_eq!(values::<i32>(&received), [i as i32]);
                Ok(())
            }
            4 => {
                let barrier = group.issue_barrier()?;
                let root = i % n;
                let data = group.broadcast(tensor([(r * i) as i32]), root)?;
                assert_eq!(values::<i32>(&data), [(root * i) as i32]);
                barrier.wait()
            }
            _ => {
                let sum = group.all_reduce(tensor([1_i64]), ReduceOp::Sum)?;
                assert_eq!(values::<i64>(&sum), [n as i64]);
                Ok(())
            }
        }
    }
    run(4, |group| (0..500).try_for_each(|i| round(group, i)));
}
