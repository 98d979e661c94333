//! Known inputs and outputs on four ranks, root 0.

use burn::tensor::{Element, TensorData, bf16, f16};
use dream_trainer::comm::{CommError, ProcessGroup, ReduceOp};

use crate::harness::{run, tensor, values};

/// Checks what each of four ranks gets.
fn check<const N: usize>(
    name: &str,
    expected: [[f32; N]; 4],
    body: impl Fn(&ProcessGroup, f32) -> Result<TensorData, CommError> + Sync,
) {
    let results = run(4, |group| body(group, group.rank() as f32));
    for (rank, (result, expected)) in results.iter().zip(&expected).enumerate() {
        assert_eq!(values::<f32>(result), expected, "{name} on rank {rank}");
    }
}

fn ramp(r: f32) -> TensorData {
    tensor([r, 1.0 + r, 2.0 + r, 3.0 + r])
}

#[test]
fn one_to_many_and_many_to_one() {
    check("broadcast", [[7.0, 8.0]; 4], |group, r| {
        let mine = if r == 0.0 { [7.0, 8.0] } else { [-r, f32::NAN] };
        group.broadcast(tensor(mine), 0)
    });
    check("scatter", [[10.0], [11.0], [12.0], [13.0]], |group, r| {
        let mine = (r == 0.0).then(|| tensor([10.0_f32, 11.0, 12.0, 13.0]));
        group.scatter(mine, 0)
    });
    let gathered = run(4, |group| group.gather(tensor([10.0 + group.rank() as f32]), 0));
    assert_eq!(gathered[0], Some(tensor([10.0_f32, 11.0, 12.0, 13.0])));
    assert_eq!(gathered[1..], [None, None, None]);
    let reduced =
        run(4, |group| group.reduce(tensor([group.rank() as f32 + 1.0]), 0, ReduceOp::Sum));
    assert_eq!(reduced[0], Some(tensor([10.0_f32])));
    assert_eq!(reduced[1..], [None, None, None]);
}

#[test]
fn roots_other_than_zero() {
    check("broadcast", [[2.0]; 4], |group, r| group.broadcast(tensor([r]), 2));
    let gathered = run(4, |group| group.gather(tensor([group.rank() as f32]), 3));
    assert_eq!(gathered[3], Some(tensor([0.0_f32, 1.0, 2.0, 3.0])));
    assert_eq!(gathered[..3], [None, None, None]);
}

#[test]
fn all_gather_along_each_dimension() {
    check("dim 0", [[10.0, 11.0, 12.0, 13.0]; 4], |group, r| {
        group.all_gather(tensor([10.0 + r]), 0)
    });
    let results = run(4, |group| {
        let r = group.rank() as f32;
        group.all_gather(TensorData::from([[r], [r]]), 1)
    });
    for result in results {
        assert_eq!(result, TensorData::from([[0.0_f32, 1.0, 2.0, 3.0], [0.0, 1.0, 2.0, 3.0]]));
    }
}

#[test]
fn all_reduce_with_each_operation() {
    let rows = [
        (ReduceOp::Sum, [6.0, 10.0, 14.0, 18.0]),
        (ReduceOp::Avg, [1.5, 2.5, 3.5, 4.5]),
        (ReduceOp::Max, [3.0, 4.0, 5.0, 6.0]),
        (ReduceOp::Min, [0.0, 1.0, 2.0, 3.0]),
        (ReduceOp::Prod, [0.0, 24.0, 120.0, 360.0]),
    ];
    for (op, expected) in rows {
        check(&op.to_string(), [expected; 4], |group, r| group.all_reduce(ramp(r), op));
    }
}

#[test]
fn reduce_scatter_and_back() {
    check("reduce_scatter", [[6.0], [10.0], [14.0], [18.0]], |group, r| {
        group.reduce_scatter(ramp(r), 0, ReduceOp::Sum)
    });
    check("then all_gather", [[6.0, 10.0, 14.0, 18.0]; 4], |group, r| {
        let part = group.reduce_scatter(ramp(r), 0, ReduceOp::Sum)?;
        group.all_gather(part, 0)
    });
    check("letters", [[1111.0], [2222.0], [3333.0], [4444.0]], |group, r| {
        let scale = 10.0_f32.powi(r as i32);
        group.reduce_scatter(tensor([1.0, 2.0, 3.0, 4.0].map(|x| x * scale)), 0, ReduceOp::Sum)
    });
}

#[test]
fn reduce_scatter_along_the_last_dimension() {
    let results = run(2, |group| {
        let r = group.rank() as f32;
        let data = TensorData::from([[r, 1.0, 2.0, 3.0], [10.0, 11.0, 12.0, 13.0 + r]]);
        group.reduce_scatter(data, 1, ReduceOp::Sum)
    });
    assert_eq!(results[0], TensorData::from([[1.0_f32, 2.0], [20.0, 22.0]]));
    assert_eq!(results[1], TensorData::from([[4.0_f32, 6.0], [24.0, 27.0]]));
}

#[test]
fn all_to_all_transposes_blocks() {
    let expected = [0.0, 1.0, 2.0, 3.0].map(|r| [r, 4.0 + r, 8.0 + r, 12.0 + r]);
    check("one dimension", expected, |group, r| {
        group.all_to_all(tensor([0.0, 1.0, 2.0, 3.0].map(|i| 4.0 * r + i)), 0, 0)
    });
    // From rows split over ranks to columns split over ranks, and back.
    let results = run(2, |group| {
        let row = 10.0 * group.rank() as f32;
        let mine = TensorData::from([[row, row + 1.0, row + 2.0, row + 3.0]]);
        let columns = group.all_to_all(mine.clone(), 1, 0)?;
        let back = group.all_to_all(columns.clone(), 0, 1)?;
        assert_eq!(back, mine);
        Ok(columns)
    });
    assert_eq!(results[0], TensorData::from([[0.0_f32, 1.0], [10.0, 11.0]]));
    assert_eq!(results[1], TensorData::from([[2.0_f32, 3.0], [12.0, 13.0]]));
}

#[test]
fn ring_shift_comes_home_after_four_hops() {
    let seen = run(4, |group| {
        let (r, n) = (group.rank(), group.size());
        let mut held = tensor([r as f32]);
        let mut seen = Vec::new();
        for hop in 0..4 {
            group.send(held, (r + 1) % n, hop)?;
            held = group.recv((r + n - 1) % n, hop)?;
            seen.extend(values::<f32>(&held));
        }
        Ok(seen)
    });
    for (r, seen) in seen.iter().enumerate() {
        let expected: Vec<f32> = (1..=4).map(|hop| ((r + 4 - hop) % 4) as f32).collect();
        assert_eq!(*seen, expected);
    }
}

#[test]
fn chain_of_stages() {
    let kept = run(4, |group| {
        let r = group.rank();
        let received = if r == 0 { 4.0 } else { values::<f32>(&group.recv(r - 1, 0)?)[0] };
        let mine = received + 1.0;
        if r < 3 {
            group.send(tensor([mine]), r + 1, 0)?;
        }
        Ok((received, mine))
    });
    assert_eq!(kept[3], (7.0, 8.0));
}

#[test]
fn element_types_reduce_alike() {
    fn check<E: Element>(from: impl Fn(f32) -> E + Sync) {
        let rows: [(ReduceOp, [f32; 3]); 4] = [
            (ReduceOp::Sum, [9.0, 18.0, -6.0]),
            (ReduceOp::Prod, [24.0, 192.0, -6.0]),
            (ReduceOp::Max, [4.0, 8.0, -1.0]),
            (ReduceOp::Min, [2.0, 4.0, -3.0]),
        ];
        for (op, expected) in rows {
            let results = run(3, |group| {
                let r = group.rank() as f32;
                group.all_reduce(tensor([2.0 + r, 4.0 + 2.0 * r, r - 3.0].map(&from)), op)
            });
            for result in results {
                assert_eq!(result, tensor(expected.map(&from)), "{op}");
            }
        }
    }
    check(|x| x);
    check(f64::from);
    check(bf16::from_f32);
    check(f16::from_f32);
    check(|x| x as i32);
    check(|x| x as i64);
}

#[test]
fn half_precision_rounds_once() {
    // 256 + 1 + 1 is 258 in bf16 only if the partial sum 257 is not rounded to 256 first.
    let results = run(3, |group| {
        let mine = if group.rank() == 0 { 256.0 } else { 1.0 };
        group.all_reduce(tensor([bf16::from_f32(mine)]), ReduceOp::Sum)
    });
    assert_eq!(results[0], tensor([bf16::from_f32(258.0)]));
}

#[test]
fn bytes_of_any_type_move() {
    let results = run(3, |group| group.all_gather(tensor([group.rank() as u8; 5]), 0));
    let expected: Vec<u8> = (0..15).map(|i| i / 5).collect();
    assert_eq!(results[2], tensor(expected));
    let results = run(2, |group| group.broadcast(tensor([group.rank() == 1, false]), 1));
    assert_eq!(results[0], tensor([true, false]));
}
