//! Optimizer passes on a `CubeCL` device against `f64` on the host.

use burn::tensor::DType;

use super::adamw_step;
use super::reduce::{accumulate, sum_of_squares};
use crate::kernels::cube::tests::{assert_tensor, dtypes, floats, numbers, read};
use crate::kernels::optimizer::AdamHyper;
use crate::kernels::optimizer::step::AdamFactors;

/// No whole vector, more than a cube, more than every cube reads at once.
const LENGTHS: [usize; 5] = [1, 7, 1000, 4096, 100_003];

fn hyper(decoupled: bool, step: u64) -> AdamHyper {
    AdamHyper {
        lr: 1e-2,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
        decoupled,
        step,
        grad_scale: 0.5,
    }
}

/// Returns parameter and moments after a step.
fn reference(values: [&[f64]; 4], hyper: &AdamHyper) -> [Vec<f64>; 3] {
    let [param, grad, exp_avg, exp_avg_sq] = values;
    let correction = |beta: f64| 1.0 - beta.powi(hyper.step as i32);
    let mut results = [const { Vec::new() }; 3];
    for i in 0..param.len() {
        let (mut p, mut g) = (param[i], grad[i] * hyper.grad_scale);
        if hyper.decoupled {
            p -= hyper.lr * hyper.weight_decay * p;
        } else {
            g += hyper.weight_decay * p;
        }
        let mean = hyper.beta1 * exp_avg[i] + (1.0 - hyper.beta1) * g;
        let square = hyper.beta2 * exp_avg_sq[i] + (1.0 - hyper.beta2) * g * g;
        let denominator = (square / correction(hyper.beta2)).sqrt() + hyper.eps;
        p -= hyper.lr * mean / correction(hyper.beta1) / denominator;
        results.iter_mut().zip([p, mean, square]).for_each(|(to, value)| to.push(value));
    }
    results
}

#[test]
fn a_step_equals_the_reference() {
    for of_grad in dtypes() {
        for (len, decoupled) in LENGTHS.into_iter().flat_map(|len| [(len, true), (len, false)]) {
            let what = format!("{len}, decoupled {decoupled}, gradient in {of_grad:?}");
            let param = numbers(1, len, 1.0, DType::F32);
            let grad = numbers(2, len, 1.0, of_grad);
            let exp_avg = numbers(3, len, 0.1, DType::F32);
            let exp_avg_sq: Vec<f64> = numbers(4, len, 1.0, DType::F32)
                .iter()
                .map(|v| f64::from((v * v) as f32))
                .collect();
            let hyper = hyper(decoupled, 3);
            let expected = reference([&param, &grad, &exp_avg, &exp_avg_sq], &hyper);
            let place = |values: &[f64]| floats(values, [len], DType::F32);
            for shared in [false, true] {
                let given = [&param, &exp_avg, &exp_avg_sq].map(|values| place(values));
                let kept = shared.then(|| given.clone());
                let [p, m, v] = given;
                let g = floats(&grad, [len], of_grad);
                let (p, m, v) = adamw_step(p, g, m, v, AdamFactors::new(&hyper));
                assert_tensor(&format!("{what}: parameter"), p, &expected[0]);
                assert_tensor(&format!("{what}: first moment"), m, &expected[1]);
                assert_tensor(&format!("{what}: second moment"), v, &expected[2]);
                let before = [&param, &exp_avg, &exp_avg_sq];
                for (kept, before) in kept.into_iter().flatten().zip(before) {
                    assert_eq!(&read(kept), before, "{what}: a shared buffer is not written");
                }
            }
        }
    }
}

#[test]
fn sums_of_squares_equal_the_reference_and_repeat() {
    for dtype in dtypes() {
        for len in LENGTHS.into_iter().chain([0, 5_000_000]) {
            let values = numbers(len as u64, len, 2.0, dtype);
            let given = floats(&values, [len], dtype);
            let sum = sum_of_squares(given.clone());
            assert_eq!(sum.dtype, DType::F32);
            let expected: f64 = values.iter().map(|v| v * v).sum();
            assert_tensor(&format!("{len} in {dtype:?}"), sum.clone(), &[expected]);
            assert_eq!(read(sum), read(sum_of_squares(given)), "{len}: the same bits");
        }
    }
}

#[test]
fn a_gradient_is_accumulated() {
    for dtype in dtypes() {
        for len in LENGTHS.into_iter().chain([0]) {
            let into = numbers(1, len, 1.0, DType::F32);
            let grad = numbers(2, len, 1.0, dtype);
            let expected: Vec<f64> = into.iter().zip(&grad).map(|(a, g)| a + 0.25 * g).collect();
            let (a, g) = (floats(&into, [len], DType::F32), floats(&grad, [len], dtype));
            assert_tensor(&format!("{len} of {dtype:?}"), accumulate(a, g, 0.25), &expected);
        }
    }
}
