//! Optimizer passes against `f64` loops that spell out the semantics of `PyTorch`.

use burn::tensor::{DType, Device, Tensor};
use dream_trainer::kernels::{self, AdamHyper, SgdHyper};

use crate::harness::{assert_close, flat, numbers, read};
use crate::tolerance::{OPERATION, OPERATION_F64};

const LENGTHS: [usize; 4] = [0, 1, 37, 40_001];

fn adam(decoupled: bool) -> AdamHyper {
    AdamHyper {
        lr: 0.01,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
        decoupled,
        step: 1,
        grad_scale: 0.5,
    }
}

fn tensors(values: &[Vec<f64>], dtype: DType) -> Vec<Tensor<1>> {
    values.iter().map(|v| flat(v, dtype, &Device::flex())).collect()
}

/// Three Adam steps with one gradient; parameter, first and second moment.
fn adam_by_definition(len: usize, hyper: &AdamHyper) -> [Vec<f64>; 3] {
    let (mut p, g) = (numbers(1, len), numbers(2, len));
    let (mut m, mut v) = (vec![0.0; len], vec![0.0; len]);
    for step in 1..=3 {
        for i in 0..len {
            let mut grad = g[i] * hyper.grad_scale;
            if hyper.decoupled {
                p[i] -= hyper.lr * hyper.weight_decay * p[i];
            } else {
                grad += hyper.weight_decay * p[i];
            }
            m[i] = hyper.beta1 * m[i] + (1.0 - hyper.beta1) * grad;
            v[i] = hyper.beta2 * v[i] + (1.0 - hyper.beta2) * grad * grad;
            let mean = m[i] / (1.0 - hyper.beta1.powi(step));
            let square = v[i] / (1.0 - hyper.beta2.powi(step));
            p[i] -= hyper.lr * mean / (square.sqrt() + hyper.eps);
        }
    }
    [p, m, v]
}

#[test]
fn adam_follows_its_definition() {
    for (len, decoupled) in LENGTHS.into_iter().flat_map(|len| [(len, true), (len, false)]) {
        let expected = adam_by_definition(len, &adam(decoupled));
        for (dtype, tolerance) in [(DType::F32, OPERATION), (DType::F64, OPERATION_F64)] {
            let start = [numbers(1, len), numbers(2, len), vec![0.0; len], vec![0.0; len]];
            let [mut p, g, mut m, mut v] = tensors(&start, dtype).try_into().expect("four tensors");
            for step in 1..=3 {
                let hyper = AdamHyper { step, ..adam(decoupled) };
                (p, m, v) = kernels::adamw_step(p, g.clone(), m, v, &hyper);
            }
            for (what, (actual, expected)) in
                ["parameter", "mean", "square"].iter().zip([p, m, v].into_iter().zip(&expected))
            {
                assert_close(what, &read(actual), expected, tolerance);
            }
        }
    }
}

#[test]
fn adam_counts_steps_beyond_32_bits() {
    // So close to 1 that the correction still matters after billions of steps.
    let beta = 1.0 - 1e-10;
    // 1 - beta^step, worked out with 80 digits.
    let rows = [
        (1, 1.000_000_082_740_371e-10),
        ((1 << 24) + 1, 0.001_676_315_250_346_252_2),
        (i32::MAX as u64, 0.193_255_594_331_223_94),
        (1 << 31, 0.193_255_594_411_898_38),
        ((1 << 32) + 1, 0.349_163_464_117_384_25),
        (10_000_000_000, 0.632_120_589_285_431_8),
    ];
    for (step, correction) in rows {
        let hyper = AdamHyper { beta1: beta, beta2: beta, weight_decay: 0.0, step, ..adam(true) };
        let [g, m, v] = [0.5, 0.25, 0.125];
        let grad = g * hyper.grad_scale;
        let mean = (beta * m + (1.0 - beta) * grad) / correction;
        let square = (beta * v + (1.0 - beta) * grad * grad) / correction;
        let expected = vec![1.0 - hyper.lr * mean / (square.sqrt() + hyper.eps)];
        for (dtype, tolerance) in [(DType::F32, OPERATION), (DType::F64, OPERATION_F64)] {
            let start = [vec![1.0], vec![g], vec![m], vec![v]];
            let [p, g, m, v] = tensors(&start, dtype).try_into().expect("four tensors");
            let (p, _, _) = kernels::adamw_step(p, g, m, v, &hyper);
            assert_close(&format!("step {step}"), &read(p), &expected, tolerance);
        }
    }
}

#[test]
fn sgd_follows_its_definition() {
    let rows = [(0.0, 0.0, false), (0.9, 0.0, false), (0.9, 0.0, true), (0.9, 0.5, false)];
    for (len, (momentum, dampening, nesterov)) in
        LENGTHS.into_iter().flat_map(|len| rows.into_iter().map(move |row| (len, row)))
    {
        let hyper = SgdHyper {
            lr: 0.1,
            momentum,
            dampening,
            nesterov,
            weight_decay: 0.01,
            grad_scale: 2.0,
        };
        let expected = sgd_by_definition(len, &hyper);
        for (dtype, tolerance) in [(DType::F32, OPERATION), (DType::F64, OPERATION_F64)] {
            let [mut p, g] =
                tensors(&[numbers(1, len), numbers(2, len)], dtype).try_into().expect("two");
            let mut buffer = None;
            for _ in 0..3 {
                (p, buffer) = kernels::sgd_step(p, g.clone(), buffer, &hyper);
            }
            assert_eq!(buffer.is_some(), momentum != 0.0);
            assert_close("sgd", &read(p), &expected, tolerance);
        }
    }
}

/// The parameter after three steps with one gradient.
fn sgd_by_definition(len: usize, hyper: &SgdHyper) -> Vec<f64> {
    let (mut p, g) = (numbers(1, len), numbers(2, len));
    let mut buffer: Vec<Option<f64>> = vec![None; len];
    for _ in 0..3 {
        for i in 0..len {
            let mut step = g[i] * hyper.grad_scale + hyper.weight_decay * p[i];
            if hyper.momentum != 0.0 {
                let next =
                    buffer[i].map_or(step, |b| b * hyper.momentum + (1.0 - hyper.dampening) * step);
                buffer[i] = Some(next);
                step = if hyper.nesterov { step + hyper.momentum * next } else { next };
            }
            p[i] -= hyper.lr * step;
        }
    }
    p
}

#[test]
fn steps_update_unshared_buffers_in_place() {
    let values: Vec<_> = (0..4).map(|seed| numbers(seed, 64)).collect();
    let [p, g, m, v] = tensors(&values, DType::F32).try_into().expect("four tensors");
    let kept = p.clone();
    let before = read(kept.clone());
    let (p, ..) = kernels::adamw_step(p, g, m, v.abs(), &adam(true));
    assert_ne!(read(p), before, "the step moves the parameter");
    assert_eq!(read(kept), before, "a shared buffer is left alone");
}

#[test]
fn sums_and_accumulation_match_f64() {
    for len in LENGTHS {
        let (a, b) = (numbers(1, len), numbers(2, len));
        let expected: f64 = a.iter().map(|x| x * x).sum();
        for dtype in [DType::F32, DType::F64] {
            let tensor = flat(&a, dtype, &Device::flex());
            let actual = kernels::sum_of_squares(&tensor);
            assert!(
                (actual - expected).abs() <= OPERATION * expected,
                "{actual} against {expected}"
            );
            assert_eq!(actual.to_bits(), kernels::sum_of_squares(&tensor).to_bits());
            let sum = kernels::accumulate(tensor, flat(&b, dtype, &Device::flex()));
            let expected: Vec<f64> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
            assert_close("accumulate", &read(sum), &expected, OPERATION);
        }
    }
}

#[test]
fn the_sum_of_squares_does_not_depend_on_the_threads() {
    let tensor = flat(&numbers(3, 100_003), DType::F32, &Device::flex());
    let [one, three] = [1, 3].map(|threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        pool.install(|| kernels::sum_of_squares(&tensor))
    });
    assert_eq!(one.to_bits(), three.to_bits());
}
