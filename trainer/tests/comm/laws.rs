//! Laws that hold for all inputs.

use burn::tensor::{Element, TensorData, bf16};
use dream_trainer::comm::ReduceOp;
use proptest::prelude::*;

use crate::harness::{run, tensor, values};

/// Checks that an all-reduce is a reduce-scatter of the padded input followed by an all-gather.
fn check_split<E: Element + PartialEq>(inputs: &[Vec<E>], zero: E, op: ReduceOp) {
    let n = inputs.len();
    let results = run(n, |group| {
        let mine = inputs[group.rank()].clone();
        let length = mine.len();
        let mut padded = mine.clone();
        padded.resize(length.next_multiple_of(n), zero);
        let whole = group.all_reduce(tensor(mine), op)?;
        let part = group.reduce_scatter(tensor(padded), 0, op)?;
        let joined = group.all_gather(part, 0)?;
        Ok((values::<E>(&whole), values::<E>(&joined)[..length].to_vec()))
    });
    for (whole, joined) in &results {
        assert_eq!(whole, joined);
        assert_eq!(whole, &results[0].0);
    }
}

fn inputs() -> impl Strategy<Value = Vec<Vec<i16>>> {
    let lengths = (1..=8_usize, 0..=17_usize);
    lengths.prop_flat_map(|(n, length)| {
        prop::collection::vec(prop::collection::vec(-100..100_i16, length), n)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn all_reduce_is_reduce_scatter_then_all_gather(inputs in inputs(), op in 0..5_usize) {
        let op = ReduceOp::ALL[op];
        let cast = |x: &i16| f32::from(*x) * 0.37;
        check_split(&map(&inputs, cast), 0.0, op);
        check_split(&map(&inputs, |x| bf16::from_f32(cast(x))), bf16::ZERO, op);
        if op != ReduceOp::Avg {
            check_split(&map(&inputs, |x| i32::from(*x)), 0, op);
            check_split(&map(&inputs, |x| i64::from(*x)), 0, op);
        }
    }

    #[test]
    fn integer_sums_are_exact(inputs in inputs()) {
        let results = run(inputs.len(), |group| {
            let mine: Vec<i64> = inputs[group.rank()].iter().map(|x| i64::from(*x)).collect();
            group.all_reduce(tensor(mine), ReduceOp::Sum)
        });
        let sum = |i: usize| inputs.iter().map(|input| i64::from(input[i])).sum::<i64>();
        let expected: Vec<i64> = (0..inputs[0].len()).map(sum).collect();
        for result in results {
            prop_assert_eq!(values::<i64>(&result), expected.clone());
        }
    }

    #[test]
    fn all_to_all_and_its_twin_are_inverse(
        n in 1..=5_usize,
        sizes in (1..=3_usize, 1..=3_usize, 1..=3_usize),
        split in 0..3_usize,
        concat in 0..3_usize,
    ) {
        let mut shape = [sizes.0, sizes.1, sizes.2];
        shape[split] *= n;
        let count: usize = shape.iter().product();
        run(n, |group| {
            let first = group.rank() * count;
            let mine = TensorData::new((first..first + count).map(|i| i as i64).collect(), shape);
            let there = group.all_to_all(mine.clone(), split, concat)?;
            assert_eq!(group.all_to_all(there, concat, split)?, mine);
            Ok(())
        });
    }
}

fn map<E>(inputs: &[Vec<i16>], f: impl Fn(&i16) -> E) -> Vec<Vec<E>> {
    inputs.iter().map(|input| input.iter().map(&f).collect()).collect()
}

#[test]
fn buffers_of_many_tasks_reduce_like_small_ones() {
    // Larger than a task and not a multiple of anything.
    const LENGTH: usize = 300_007;
    let results = run(3, |group| {
        let r = group.rank();
        let mine: Vec<i32> = (0..LENGTH).map(|i| (i * (r + 1)) as i32).collect();
        let sum = group.all_reduce(tensor(mine.clone()), ReduceOp::Sum)?;
        let wide = TensorData::new(mine[..LENGTH / 6 * 6].to_vec(), [LENGTH / 6, 6]);
        let part = group.reduce_scatter(wide, 1, ReduceOp::Max)?;
        Ok((values::<i32>(&sum), values::<i32>(&part)))
    });
    for (rank, (sum, part)) in results.iter().enumerate() {
        assert!(sum.iter().enumerate().all(|(i, x)| *x == 6 * i as i32));
        let expected = |i: usize| 3 * (i / 2 * 6 + rank * 2 + i % 2) as i32;
        assert!(part.iter().enumerate().all(|(i, x)| *x == expected(i)), "rank {rank}");
    }
}
