//! Cross-entropy, alone and fused with the output projection.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use dream_trainer::kernels::{self, IGNORE_INDEX};
use proptest::prelude::*;

use crate::harness::{assert_close, check, check_differences, flat, numbers, read, run};
use crate::tolerance::{OPERATION, OPERATION_F64};

fn labels(seed: u64, tokens: usize, vocabulary: usize) -> Vec<i64> {
    numbers(seed, tokens)
        .into_iter()
        .map(|x| if x < -1.2 { IGNORE_INDEX } else { ((x + 2.0) * 1e4) as i64 % vocabulary as i64 })
        .collect()
}

fn tensor(labels: &[i64]) -> Tensor<1, Int> {
    Tensor::from_data(TensorData::new(labels.to_vec(), [labels.len()]), &Device::flex())
}

proptest! {
    #![proptest_config(crate::harness::cases(10))]

    // With a few tokens the loss itself can be near zero, a difference of two large numbers.
    #[test]
    fn losses_match_f64(tokens in 8usize..60, hidden in 1usize..24, vocabulary in 8usize..90) {
        let labels = tensor(&labels(5, tokens, vocabulary));
        check("cross_entropy", &[numbers(0, tokens * vocabulary)], OPERATION, &|x| {
            kernels::cross_entropy(x[0].clone().reshape([tokens, vocabulary]), labels.clone())
        });
        let inputs = [numbers(0, tokens * hidden), numbers(1, hidden * vocabulary)];
        check("linear_cross_entropy", &inputs, OPERATION, &|x| {
            let weight = x[1].clone().reshape([hidden, vocabulary]);
            kernels::linear_cross_entropy(x[0].clone().reshape([tokens, hidden]), weight, labels.clone())
        });
        check("tied_linear_cross_entropy", &inputs, OPERATION, &|x| {
            let table = x[1].clone().reshape([vocabulary, hidden]);
            kernels::tied_linear_cross_entropy(x[0].clone().reshape([tokens, hidden]), table, labels.clone())
        });
    }
}

#[test]
fn several_blocks_of_tokens_match_f64() {
    // The vocabulary makes a block of 128 tokens, and one of 256 in the reference: 300 tokens take several of both.
    let (tokens, hidden, vocabulary) = (300, 3, 16_500);
    let labels = tensor(&labels(5, tokens, vocabulary));
    let inputs = [numbers(0, tokens * hidden), numbers(1, hidden * vocabulary)];
    check("blocks", &inputs, OPERATION, &|x| {
        let weight = x[1].clone().reshape([hidden, vocabulary]);
        kernels::linear_cross_entropy(
            x[0].clone().reshape([tokens, hidden]),
            weight,
            labels.clone(),
        )
    });
}

#[test]
fn sums_the_losses_of_counted_tokens() {
    let logits = [[1.0f64, 2.0, 0.5], [0.0, -1.0, 3.0], [9.0, 9.0, 9.0]];
    let loss =
        |row: [f64; 3], label: usize| row.iter().map(|v| v.exp()).sum::<f64>().ln() - row[label];
    let expected = loss(logits[0], 2) + loss(logits[1], 0);
    for (dtype, tolerance) in [(DType::F32, OPERATION), (DType::F64, OPERATION_F64)] {
        let x = flat(&logits.concat(), dtype, &Device::flex()).reshape([3, 3]);
        let actual = read(kernels::cross_entropy(x, tensor(&[2, 0, IGNORE_INDEX])))[0];
        assert!((actual - expected).abs() < tolerance * expected, "{actual} against {expected}");
    }
}

#[test]
fn fully_ignored_labels_give_zero_loss_and_zero_gradients() {
    let ignored = tensor(&[IGNORE_INDEX; 4]);
    let inputs = [numbers(0, 12), numbers(1, 15)];
    let head = run(&inputs, DType::F32, &|x| {
        let weight = x[1].clone().reshape([3, 5]);
        kernels::linear_cross_entropy(x[0].clone().reshape([4, 3]), weight, ignored.clone())
    });
    let plain = run(&inputs[..1], DType::F32, &|x| {
        kernels::cross_entropy(x[0].clone().reshape([4, 3]), ignored.clone())
    });
    for outcome in [head, plain] {
        assert_eq!(outcome.value, [0.0]);
        assert!(outcome.gradients.iter().flatten().all(|g| *g == 0.0));
    }
}

#[test]
fn references_match_finite_differences() {
    let labels = tensor(&[2, IGNORE_INDEX, 0]);
    check_differences("cross_entropy", &[numbers(0, 12)], &|x| {
        kernels::cross_entropy(x[0].clone().reshape([3, 4]), labels.clone())
    });
    check_differences("tied", &[numbers(0, 6), numbers(1, 8)], &|x| {
        let table = x[1].clone().reshape([4, 2]);
        kernels::tied_linear_cross_entropy(x[0].clone().reshape([3, 2]), table, labels.clone())
    });
}

#[test]
fn evaluation_outside_a_tape_gives_the_same_loss() {
    let labels = tensor(&labels(5, 40, 7));
    let (x, weight) = (numbers(0, 40 * 6), numbers(1, 6 * 7));
    let loss = |device: &Device| {
        let x = flat(&x, DType::F32, device).reshape([40, 6]);
        let weight = flat(&weight, DType::F32, device).reshape([6, 7]);
        read(kernels::linear_cross_entropy(x, weight, labels.clone()).inner())[0]
    };
    let tracked = run(&[x.clone(), weight.clone()], DType::F32, &|x| {
        let weight = x[1].clone().reshape([6, 7]);
        kernels::linear_cross_entropy(x[0].clone().reshape([40, 6]), weight, labels.clone())
    });
    let plain = loss(&Device::flex().autodiff());
    assert!((plain - tracked.value[0]).abs() < OPERATION * plain);
}

#[test]
fn shards_of_the_vocabulary_combine_to_the_whole() {
    let (tokens, vocabulary) = (37, 50);
    let logits = numbers(0, tokens * vocabulary);
    let list = labels(5, tokens, vocabulary);
    let labels = tensor(&list);
    let whole = run(std::slice::from_ref(&logits), DType::F64, &|x| {
        kernels::cross_entropy(x[0].clone().reshape([tokens, vocabulary]), labels.clone())
    });
    let factor = numbers(77, 1)[0];
    for (dtype, tolerance) in [(DType::F32, OPERATION), (DType::F64, OPERATION_F64)] {
        let x = flat(&logits, dtype, &Device::flex()).reshape([tokens, vocabulary]);
        let shards =
            [(0, 20), (20, 30)].map(|(first, len)| (x.clone().narrow(1, first, len), first));
        let [a, b] = shards.each_ref().map(|(shard, _)| kernels::shard_maxima(shard));
        let maxima = a.max_pair(b);
        let [(sum_a, target_a), (sum_b, target_b)] = shards
            .each_ref()
            .map(|(shard, first)| kernels::shard_sums(shard, &labels, &maxima, *first));
        let log_totals = (sum_a + sum_b).log() + maxima;
        let losses = read(log_totals.clone() - (target_a + target_b));
        let counted = losses.iter().zip(&list).filter(|(_, label)| **label != IGNORE_INDEX);
        let loss: f64 = counted.map(|(loss, _)| loss).sum();
        assert_close("loss", &[loss], &whole.value, tolerance);
        let gradients = shards.map(|(shard, first)| {
            kernels::shard_gradients(shard, &labels, &log_totals, first, factor)
        });
        let joined = read(Tensor::cat(gradients.to_vec(), 1));
        assert_close("gradient", &joined, &whole.gradients[0], tolerance);
    }
}
