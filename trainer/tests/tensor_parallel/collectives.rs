//! Differentiable collectives: values, and gradients as adjoints.

use std::time::Duration;

use burn::tensor::{Tensor, TensorData};
use dream_trainer::comm::differentiable::{
    Consumer, all_gather, broadcast, copy, gather, recv, redistribute, reduce, scatter, send,
};
use dream_trainer::comm::{
    CommError, CommTimeouts, ProcessGroup, RankContext, RankFault, launch_threads,
};
use dream_trainer::mesh::{Placement, ReduceKind};

use crate::harness::{assert_close, device, ranks, read, tensor};
use crate::tolerance::PAIR;

const SHAPE: [usize; 3] = [8, 4, 8];

fn placements() -> [Placement; 6] {
    use Placement::{Partial, Replicate, Shard};
    [Replicate, Shard(0), Shard(1), Shard(2), Partial(ReduceKind::Sum), Partial(ReduceKind::Avg)]
}

/// The own part of a replicated tensor along `dim`.
fn part(x: Tensor<3>, dim: usize, group: &ProcessGroup) -> Tensor<3> {
    let chunk = SHAPE[dim] / group.size();
    x.narrow(dim, group.rank() * chunk, chunk)
}

/// What this rank holds of `value` under a placement; terms differ from rank to rank.
fn place(value: Tensor<3>, placement: Placement, group: &ProcessGroup) -> Tensor<3> {
    let n = group.size() as f64;
    match placement {
        Placement::Replicate => value,
        Placement::Shard(dim) => part(value, dim, group),
        Placement::Partial(kind) => {
            let noise = |rank: usize| tensor::<3>(100 + rank as u64, SHAPE);
            let others = (1..group.size()).map(noise).reduce(|a, b| a + b);
            let first = |value: Tensor<3>| others.map_or(value.clone(), |others| value - others);
            let total = if kind == ReduceKind::Avg { value * n } else { value };
            if group.rank() == 0 { first(total) } else { noise(group.rank()) }
        }
    }
}

/// What the gradient of a local value is, given the gradient of the global one.
fn place_gradient(gradient: Tensor<3>, placement: Placement, group: &ProcessGroup) -> Tensor<3> {
    match placement {
        Placement::Shard(dim) => part(gradient, dim, group),
        Placement::Partial(ReduceKind::Avg) => gradient * (1.0 / group.size() as f64),
        _ => gradient,
    }
}

fn check_redistribution(n: usize, from: Placement, to: Placement, consumer: Consumer) {
    let what = format!("{from} to {to} on {n} for {consumer:?}");
    let results = ranks(n, |group| {
        let (value, weight) = (tensor::<3>(1, SHAPE), tensor::<3>(2, SHAPE));
        let x = place(value, from, group).detach().require_grad();
        let y = redistribute(x.clone(), from, to, consumer, group).expect("it is linear");
        // Distinct consumers each weigh the result in their own way; the weights add up to the
        // replicated one.
        let weight = match consumer {
            Consumer::Replicated => place_gradient(weight, to, group),
            Consumer::Distinct => place(weight, Placement::Partial(ReduceKind::Sum), group),
        };
        let mut grads = (y.clone() * weight).sum().backward();
        let gradient = x.grad_remove(&mut grads).expect("x is a leaf");
        (read(y), read(gradient))
    });
    let expected = ranks(n, |group| {
        let (value, weight) = (tensor::<3>(1, SHAPE), tensor::<3>(2, SHAPE));
        (read(place(value, to, group)), read(place_gradient(weight, from, group)))
    });
    if matches!(to, Placement::Partial(_)) {
        let sum = |all: &[(Vec<f64>, Vec<f64>)]| {
            (0..all[0].0.len())
                .map(|i| all.iter().map(|rank| rank.0[i]).sum())
                .collect::<Vec<f64>>()
        };
        assert_close(&format!("{what}: sum of terms"), &sum(&results), &sum(&expected), PAIR);
    }
    for (rank, (actual, expected)) in results.iter().zip(&expected).enumerate() {
        if !matches!(to, Placement::Partial(_)) {
            assert_close(&format!("{what}: value of rank {rank}"), &actual.0, &expected.0, PAIR);
        }
        assert_close(&format!("{what}: gradient of rank {rank}"), &actual.1, &expected.1, PAIR);
    }
}

#[test]
fn redistribution_keeps_the_value_and_its_gradient_takes_the_way_back() {
    for n in [1, 2, 4] {
        for from in placements() {
            for to in placements() {
                check_redistribution(n, from, to, Consumer::Replicated);
            }
            check_redistribution(n, from, Placement::Replicate, Consumer::Distinct);
        }
    }
}

#[test]
fn largest_and_smallest_terms_have_no_gradient() {
    let max = Placement::Partial(ReduceKind::Max);
    let errors = ranks(2, |group| {
        let result = redistribute(
            tensor::<3>(1, SHAPE),
            max,
            Placement::Replicate,
            Consumer::Replicated,
            group,
        );
        result.expect_err("a maximum is not linear").to_string()
    });
    assert_eq!(
        errors[0],
        "`P(max)` to `R` is not a linear map, so it has no gradient; use the plain collective"
    );
}

#[test]
fn gathered_parts_get_the_sum_of_distinct_gradients() {
    let gradients = ranks(2, |group| {
        let leaf = |values: Vec<f32>| {
            Tensor::<1>::from_data(TensorData::new(values.clone(), [values.len()]), &device())
        };
        let x = leaf(vec![group.rank() as f32 + 1.0]).require_grad();
        let y = all_gather(x.clone(), 0, Consumer::Distinct, group);
        assert_eq!(read(y.clone()), [1.0, 2.0]);
        let weight = if group.rank() == 0 { [1.0, 2.0] } else { [10.0, 20.0] };
        let mut grads = (y * leaf(weight.to_vec())).sum().backward();
        read(x.grad_remove(&mut grads).expect("x is a leaf"))
    });
    assert_eq!(gradients, [[11.0], [22.0]]);
}

#[test]
fn a_value_travels_around_the_ring_and_its_gradient_back() {
    let results = ranks(4, |group| {
        let (rank, next) = (group.rank(), (group.rank() + 1) % 4);
        let x = tensor::<2>(rank as u64, [2, 3]).require_grad();
        let anchor = Tensor::<2>::empty([0, 3], &device()).require_grad();
        let sent = send(x.clone(), next, 7, group);
        let came = recv(anchor, (rank + 3) % 4, 7, group);
        let weight = tensor::<2>(10 + rank as u64, [2, 3]);
        let mut grads = (sent.sum() + (came.clone() * weight).sum()).backward();
        (read(came), read(x.grad_remove(&mut grads).expect("x is a leaf")))
    });
    for (rank, (came, gradient)) in results.into_iter().enumerate() {
        assert_eq!(came, read(tensor::<2>((rank as u64 + 3) % 4, [2, 3])));
        assert_eq!(gradient, read(tensor::<2>(10 + (rank as u64 + 1) % 4, [2, 3])));
    }
}

#[test]
fn root_operations_are_each_others_adjoints() {
    let n = 4;
    let results = ranks(n, |group| {
        let (rank, is_root) = (group.rank(), group.rank() == 1);
        let x = tensor::<2>(rank as u64, [n, 3]).require_grad();
        let whole =
            if is_root { tensor::<2>(50, [n, 3]) } else { Tensor::empty([0, 3], &device()) };
        let whole = whole.require_grad();
        let weight = |seed: u64, rows: usize| tensor::<2>(seed + rank as u64, [rows, 3]);
        let spread = broadcast(x.clone(), 1, group);
        let summed = reduce(x.clone(), 1, group);
        let part = scatter(whole.clone(), 1, group);
        let collected = gather(part.clone() * 2.0, 1, group);
        let rows = collected.dims()[0];
        let loss = (spread.clone() * weight(60, n)).sum()
            + (summed.clone() * weight(70, n)).sum()
            + (collected.clone() * weight(80, rows)).sum();
        let mut grads = loss.backward();
        let x = read(x.grad_remove(&mut grads).expect("x is a leaf"));
        let whole = read(whole.grad_remove(&mut grads).expect("a leaf"));
        (read(spread), read(summed), read(collected), x, whole)
    });
    let add = |tensors: Vec<Tensor<2>>| tensors.into_iter().reduce(|a, b| a + b).expect("some");
    let all = |seed: u64| (0..n as u64).map(|r| tensor::<2>(seed + r, [n, 3])).collect::<Vec<_>>();
    for (rank, (spread, summed, collected, x, whole)) in results.into_iter().enumerate() {
        assert_eq!(spread, read(tensor::<2>(1, [n, 3])));
        let root_weight = tensor::<2>(71, [n, 3]);
        if rank == 1 {
            assert_close("sum", &summed, &read(add(all(0))), PAIR);
            assert_eq!(collected, read(tensor::<2>(50, [n, 3]) * 2.0));
            assert_close("root", &x, &read(add(all(60)) + root_weight), PAIR);
            assert_eq!(whole, read(tensor::<2>(81, [n, 3]) * 2.0));
        } else {
            assert!(summed.iter().all(|v| *v == 0.0) && collected.is_empty() && whole.is_empty());
            assert_close("other", &x, &read(root_weight), PAIR);
        }
    }
}

#[test]
fn a_peer_that_leaves_is_a_typed_error_in_the_backward_pass() {
    let run = |ctx: RankContext| {
        let group = ctx.world_group();
        let x = tensor::<1>(1, [4]).require_grad();
        let y = copy(x, &group).sum();
        // The backward of a copy is an all-reduce, for which rank 1 does not come.
        if group.rank() == 0 {
            y.backward();
        }
        Ok::<_, CommError>(())
    };
    let timeouts = CommTimeouts::uniform(Duration::from_mins(1));
    let failure = launch_threads(2, timeouts, run).expect_err("rank 1 left");
    assert_eq!(failure.rank, 0);
    assert!(
        matches!(*failure.fault, RankFault::Comm(CommError::PeerFailed { rank: 1, .. })),
        "{failure}"
    );
}
