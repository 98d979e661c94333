//! Dropout keeps what it should, and any part of a mask is a part of the whole.

use burn::tensor::{DType, Device, Tensor};
use dream_trainer::kernels::{self, DropoutPosition};

use crate::harness::{assert_close, flat, numbers, read, run};

const START: DropoutPosition =
    DropoutPosition { key: 0x1234_5678_9abc_def0, step: 3, first_sequence: 0, first_token: 0 };

fn ones(shape: [usize; 3]) -> Tensor<3> {
    Tensor::ones(shape, &Device::flex())
}

fn mask(shape: [usize; 3], probability: f64, position: DropoutPosition) -> Vec<f64> {
    read(kernels::dropout(ones(shape), probability, position))
}

#[test]
fn the_share_that_stays_and_the_mean_are_right() {
    let count = 64 * 64 * 64;
    for probability in [0.0, 0.1, 0.5, 0.9] {
        let mask = mask([64, 64, 64], probability, START);
        let kept = mask.iter().filter(|value| **value > 0.0).count() as f64 / f64::from(count);
        // Five deviations of a mean of independent draws.
        let slack = 5.0 * (probability * (1.0 - probability) / f64::from(count)).sqrt();
        assert!((kept - (1.0 - probability)).abs() <= slack, "{kept} of {probability}");
        let scale = f64::from((1.0 / (1.0 - probability)) as f32);
        assert!(mask.iter().all(|value| *value == 0.0 || *value == scale));
    }
}

#[test]
fn neighbors_are_independent() {
    let shape = [16, 32, 32];
    let dropped: Vec<f64> =
        mask(shape, 0.5, START).iter().map(|value| if *value > 0.0 { 1.0 } else { -1.0 }).collect();
    // Along features, tokens, sequences.
    for distance in [1, 4, 32, 32 * 32] {
        let pairs = dropped.len() - distance;
        let sum: f64 = dropped.iter().zip(&dropped[distance..]).map(|(a, b)| a * b).sum();
        let correlation = sum / pairs as f64;
        assert!(correlation.abs() < 5.0 / (pairs as f64).sqrt(), "{correlation} at {distance}");
    }
}

#[test]
fn a_part_of_the_batch_gets_its_part_of_the_mask() {
    let whole = mask([4, 6, 10], 0.3, START);
    for (sequence, token) in [(0, 0), (1, 0), (3, 4), (2, 5)] {
        let position =
            DropoutPosition { first_sequence: sequence as u64, first_token: token as u64, ..START };
        let part = mask([4 - sequence, 6 - token, 10], 0.3, position);
        for (i, value) in part.iter().enumerate() {
            let (row, feature) = (i / 10, i % 10);
            let (s, t) = (sequence + row / (6 - token), token + row % (6 - token));
            assert_eq!(*value, whole[(s * 6 + t) * 10 + feature]);
        }
    }
}

#[test]
fn steps_and_layers_draw_masks_of_their_own() {
    let first = mask([2, 8, 16], 0.5, START);
    assert_eq!(first, mask([2, 8, 16], 0.5, START));
    assert_ne!(first, mask([2, 8, 16], 0.5, DropoutPosition { step: 4, ..START }));
    assert_ne!(first, mask([2, 8, 16], 0.5, DropoutPosition { key: 1, ..START }));
    // Also numbers that differ above 32 bits only.
    for high in [1 << 32, 1 << 33, 1 << 52] {
        let later = DropoutPosition { step: START.step + high, ..START };
        assert_ne!(first, mask([2, 8, 16], 0.5, later));
        let farther = DropoutPosition { first_sequence: high, ..START };
        assert_ne!(first, mask([2, 8, 16], 0.5, farther));
    }
}

#[test]
fn the_gradient_is_that_of_what_stays() {
    let values = numbers(4, 3 * 5 * 7);
    let drop = |inputs: &[Tensor<1>]| {
        let x: Tensor<3> = inputs[0].clone().reshape([3, 5, 7]);
        kernels::dropout(x, 0.4, START).reshape([105])
    };
    let outcome = run(std::slice::from_ref(&values), DType::F32, &drop);
    let mask = mask([3, 5, 7], 0.4, START);
    let times = |values: &[f64]| -> Vec<f64> {
        values.iter().zip(&mask).map(|(value, mask)| value * mask).collect()
    };
    assert_close("value", &outcome.value, &times(&values), 1e-6);
    let weights = read(flat(&numbers(77, 105), DType::F32, &Device::flex()));
    assert_close("gradient", &outcome.gradients[0], &times(&weights), 1e-6);
}
