//! The edges of the value space: one rank, no elements, lengths that do not divide, NaN, rounding,
//! shared buffers.

use burn::tensor::{Bytes, DType, TensorData};
use dream_trainer::comm::{CommError, ProcessGroup, ReduceOp};

use crate::harness::{PATIENT, run, tensor, values, verdicts};

#[test]
fn a_group_of_one_returns_every_input_without_a_copy() {
    type Op = fn(&ProcessGroup, TensorData) -> Result<TensorData, CommError>;
    let ops: [(&str, Op); 8] = [
        ("all_reduce", |g, x| g.all_reduce(x, ReduceOp::Avg)),
        ("all_gather", |g, x| g.all_gather(x, 0)),
        ("reduce_scatter", |g, x| g.reduce_scatter(x, 0, ReduceOp::Sum)),
        ("all_to_all", |g, x| g.all_to_all(x, 0, 0)),
        ("broadcast", |g, x| g.broadcast(x, 0)),
        ("scatter", |g, x| g.scatter(Some(x), 0)),
        ("gather", |g, x| Ok(g.gather(x, 0)?.expect("the only member is the root"))),
        ("send and recv", |g, x| g.send(x, 0, 3).and_then(|()| g.recv(0, 3))),
    ];
    run(1, |group| {
        for (name, op) in ops {
            let input = tensor([1.5_f32, f32::NAN, -3.0]);
            let address = input.as_bytes().as_ptr();
            let output = op(group, input)?;
            assert_eq!(output.as_bytes().as_ptr(), address, "{name}");
        }
        group.barrier()
    });
}

#[test]
fn all_reduce_writes_over_its_input() {
    run(2, |group| {
        let input = tensor(vec![1.0_f32; 1000]);
        let address = input.as_bytes().as_ptr();
        let output = group.all_reduce(input, ReduceOp::Sum)?;
        assert_eq!(output.as_bytes().as_ptr(), address);
        Ok(())
    });
}

#[test]
fn a_sent_tensor_arrives_in_the_same_memory() {
    run(2, |group| {
        if group.rank() == 0 {
            let data = tensor([1.0_f32]);
            group.send(tensor([data.as_bytes().as_ptr().addr() as u64]), 1, 0)?;
            group.send(data, 1, 1)
        } else {
            let address = values::<u64>(&group.recv(0, 0)?)[0];
            let received = group.recv(0, 1)?;
            assert_eq!(received.as_bytes().as_ptr().addr() as u64, address);
            Ok(())
        }
    });
}

#[test]
fn shared_and_unaligned_buffers_are_left_alone() {
    let original = tensor([1.0_f32, 2.0]).into_bytes().shared();
    let unaligned = Bytes::from_bytes_vec(vec![0, 0, 0, 128, 63, 0, 0, 0, 64]).shared();
    let unaligned = unaligned.view(1, 9).expect("shared bytes have views");
    run(2, |group| {
        for bytes in [original.clone(), unaligned.clone()] {
            let data = TensorData::from_bytes(bytes, [2], DType::F32);
            assert_eq!(values::<f32>(&group.all_reduce(data, ReduceOp::Sum)?), [2.0, 4.0]);
        }
        Ok(())
    });
    assert_eq!(TensorData::from_bytes(original, [2], DType::F32), tensor([1.0_f32, 2.0]));
}

#[test]
fn tensors_without_elements() {
    run(3, |group| {
        let empty = || TensorData::new(Vec::<f32>::new(), [0, 6]);
        let reduced = group.all_reduce(empty(), ReduceOp::Sum)?;
        assert_eq!(reduced.shape().to_vec(), [0, 6]);
        assert_eq!(group.all_gather(empty(), 1)?.shape().to_vec(), [0, 18]);
        assert_eq!(group.reduce_scatter(empty(), 1, ReduceOp::Max)?.shape().to_vec(), [0, 2]);
        assert_eq!(group.all_to_all(empty(), 1, 0)?.shape().to_vec(), [0, 2]);
        assert_eq!(group.broadcast(empty(), 1)?, empty());
        Ok(())
    });
}

#[test]
fn nan_on_one_rank_reaches_all() {
    for op in ReduceOp::ALL {
        let results = run(3, |group| {
            let mine = if group.rank() == 1 { f32::NAN } else { 1.0 };
            group.all_reduce(tensor([mine, 2.0]), op)
        });
        for result in results {
            let result = values::<f32>(&result);
            assert!(result[0].is_nan() && !result[1].is_nan(), "{op}: {result:?}");
        }
    }
}

#[test]
fn sums_are_equal_bit_by_bit_and_within_the_error_bound() {
    const LENGTH: usize = 10_007;
    let value = |r: usize, i: usize| ((i * 7919 + r * 104_729) % 1000) as f32 * 0.001 - 0.3;
    for n in [2, 3, 5, 8] {
        let results = run(n, |group| {
            let mine: Vec<f32> = (0..LENGTH).map(|i| value(group.rank(), i)).collect();
            group.all_reduce(tensor(mine), ReduceOp::Sum)
        });
        for result in &results {
            assert_eq!(result.as_bytes(), results[0].as_bytes());
        }
        for (i, sum) in values::<f32>(&results[0]).into_iter().enumerate() {
            let exact: f64 = (0..n).map(|r| f64::from(value(r, i))).sum();
            let size: f64 = (0..n).map(|r| f64::from(value(r, i)).abs()).sum();
            let bound = (n - 1) as f64 * f64::from(f32::EPSILON) * size;
            assert!((f64::from(sum) - exact).abs() <= bound, "element {i} of {n} ranks");
        }
    }
}

#[test]
fn integers_wrap_around() {
    let results = run(2, |group| group.all_reduce(tensor([i32::MAX]), ReduceOp::Sum));
    assert_eq!(values::<i32>(&results[0]), [-2]);
}

#[test]
fn scalars_reduce_in_f64() {
    run(4, |group| {
        let mut values = [group.rank() as f64, 1e300];
        group.all_reduce_scalars(&mut values, ReduceOp::Max)?;
        assert_eq!(values, [3.0, 1e300]);
        Ok(())
    });
}

#[test]
fn calls_that_cannot_be_carried_out_fail_on_all_ranks() {
    type Op = fn(&ProcessGroup) -> Result<TensorData, CommError>;
    let rows: [(&str, Op); 8] = [
        ("dimension 0 of size 5 does not divide into 2 equal parts; pad it to 6", |g| {
            g.reduce_scatter(tensor([0.0_f32; 5]), 0, ReduceOp::Sum)
        }),
        ("dimension 0 of size 3 does not divide into 2 equal parts; pad it to 4", |g| {
            g.all_to_all(tensor([0.0_f32; 3]), 0, 0)
        }),
        ("dimension 1 does not exist in a tensor of 1 dimensions", |g| {
            g.all_gather(tensor([0.0_f32; 3]), 1)
        }),
        ("member 2 does not exist in a group of 2", |g| g.broadcast(tensor([0.0_f32]), 2)),
        ("member 7 does not exist in a group of 2", |g| g.recv(7, 0)),
        ("u8 cannot be reduced; f64, f32, f16, bf16, i64 and i32 can", |g| {
            g.all_reduce(tensor([0_u8]), ReduceOp::Sum)
        }),
        ("the average of i32 is not i32; sum and divide, or convert first", |g| {
            g.all_reduce(tensor([0_i32]), ReduceOp::Avg)
        }),
        ("the root of a scatter gives a tensor and no other member does", |g| {
            g.scatter(Some(tensor([0.0_f32; 2])), 0)
        }),
    ];
    for (problem, op) in rows {
        // Only one rank makes the bad call; the other one must hear of it.
        let results = verdicts(2, PATIENT, |group| {
            if group.rank() == 1 {
                op(group)?;
            }
            group.barrier()
        });
        for result in results {
            let error = result.expect_err(problem).to_string();
            assert!(error.starts_with("rank 1 called "), "{error}");
            assert!(error.contains("in group `world`") && error.ends_with(problem), "{error}");
        }
    }
}
