//! Activations on a `CubeCL` device against `f64` on the host.

use super::{gelu, gelu_backward, swiglu, swiglu_backward};
use crate::kernels::cube::tests::{assert_tensor, dtypes, floats, numbers, read};

/// Nothing, no whole vector, more than a cube, many cubes.
const LENGTHS: [usize; 6] = [0, 1, 7, 37, 4096, 70_001];

/// Largest magnitude of inputs: usual ones, and those that saturate.
const SCALES: [f64; 2] = [4.0, 120.0];

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The normal distribution's cumulative function, by its series about zero and its continued fraction far from it.
fn cumulative(x: f64) -> f64 {
    let density = (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt();
    if x.abs() < 5.0 {
        let (mut term, mut sum) = (x, x);
        for k in 1..120 {
            term *= x * x / f64::from(2 * k + 1);
            sum += term;
        }
        return 0.5 + sum * density;
    }
    let tail = (1..60).rev().fold(x.abs(), |tail, k| x.abs() + f64::from(k) / tail);
    if x > 0.0 { 1.0 - density / tail } else { density / tail }
}

#[test]
fn swiglu_and_its_gradients_equal_the_reference() {
    for dtype in dtypes() {
        for (len, scale) in LENGTHS.into_iter().flat_map(|len| SCALES.map(|scale| (len, scale))) {
            let what = format!("{len} to {scale}");
            let gate = numbers(1, len, scale, dtype);
            let [up, grad] = [2, 3].map(|seed| numbers(seed, len, 1.0, dtype));
            let place = |values: &[f64]| floats(values, [len], dtype);
            let of = |value: fn(f64, f64, f64) -> f64| -> Vec<f64> {
                (0..len).map(|i| value(gate[i], up[i], grad[i])).collect()
            };
            let given = place(&gate);
            let y = swiglu(given.clone(), place(&up));
            assert_eq!(read(given), gate, "{what}: a shared buffer is not written");
            let expected = of(|x, up, _| x * sigmoid(x) * up);
            assert_tensor(&format!("{what}: y"), y, &expected);
            let y = swiglu(place(&gate), place(&up));
            assert_tensor(&format!("{what}: in place"), y, &expected);
            let (dgate, dup) = swiglu_backward(place(&gate), place(&up), place(&grad));
            let slope = of(|x, up, g| g * up * sigmoid(x) * (1.0 + x * sigmoid(-x)));
            assert_tensor(&format!("{what}: dgate"), dgate, &slope);
            assert_tensor(&format!("{what}: dup"), dup, &of(|x, _, g| g * x * sigmoid(x)));
        }
    }
}

#[test]
fn gelu_and_its_gradient_equal_the_reference() {
    for dtype in dtypes() {
        for (len, scale) in LENGTHS.into_iter().flat_map(|len| SCALES.map(|scale| (len, scale))) {
            let what = format!("{len} to {scale}");
            let mut x = numbers(1, len, scale, dtype);
            x.iter_mut().take(1).for_each(|x| *x = 1.25);
            let grad = numbers(2, len, 1.0, dtype);
            let place = |values: &[f64]| floats(values, [len], dtype);
            let given = place(&x);
            let y = gelu(given.clone());
            assert_eq!(read(given), x, "{what}: a shared buffer is not written");
            // Far below zero the distribution is a difference of two numbers near one half, so that the
            // error is relative to the input: one that is not small takes part.
            let expected: Vec<f64> = x.iter().map(|x| x * cumulative(*x)).collect();
            assert_tensor(&format!("{what}: y"), y, &expected);
            let dx = gelu_backward(place(&x), place(&grad));
            let density = |x: f64| (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt();
            let slope = |x: f64| cumulative(x) + x * density(x);
            let expected: Vec<f64> = x.iter().zip(&grad).map(|(x, g)| g * slope(*x)).collect();
            assert_tensor(&format!("{what}: dx"), dx, &expected);
        }
    }
}

#[test]
fn the_reference_knows_the_normal_distribution() {
    for (x, expected) in
        [(0.0, 0.5), (1.0, 0.841_344_746_068_542_9), (-6.0, 9.865_876_450_376_98e-10)]
    {
        assert!((cumulative(x) / expected - 1.0).abs() < 1e-12, "{x}: {}", cumulative(x));
    }
}
