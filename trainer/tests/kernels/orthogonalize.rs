//! What Muon makes of momentum, against its definition in `f64`.

use burn::tensor::{DType, Device, Tensor};
use dream_trainer::kernels;

use crate::harness::{assert_close, flat, numbers, read};

const SHAPES: [[usize; 2]; 5] = [[1, 1], [3, 7], [7, 3], [16, 16], [40, 96]];

fn product(a: &[f64], b: &[f64], [m, k, n]: [usize; 3]) -> Vec<f64> {
    let cell = |i: usize, j: usize| (0..k).map(|l| a[i * k + l] * b[l * n + j]).sum();
    (0..m).flat_map(|i| (0..n).map(move |j| cell(i, j))).collect()
}

fn transpose(a: &[f64], [m, n]: [usize; 2]) -> Vec<f64> {
    (0..n).flat_map(|j| (0..m).map(move |i| a[i * n + j])).collect()
}

/// The quintic as it is written, on whichever side is given.
fn by_definition(matrix: &[f64], [m, n]: [usize; 2], steps: usize) -> Vec<f64> {
    let norm = matrix.iter().map(|x| x * x).sum::<f64>().sqrt() + 1e-7;
    let mut x: Vec<f64> = matrix.iter().map(|x| x / norm).collect();
    for _ in 0..steps {
        let gram = product(&x, &transpose(&x, [m, n]), [m, n, m]);
        let once = product(&gram, &x, [m, m, n]);
        let twice = product(&gram, &once, [m, m, n]);
        let terms = x.iter().zip(once.iter().zip(&twice));
        x = terms.map(|(x, (a, b))| 3.4445 * x - 4.7750 * a + 2.0315 * b).collect();
    }
    x
}

fn orthogonalize(values: &[f64], shape: [usize; 2], dtype: DType, steps: usize) -> Vec<f64> {
    let matrix: Tensor<2> = flat(values, dtype, &Device::flex()).reshape(shape);
    read(kernels::orthogonalize(matrix, steps))
}

#[test]
fn it_follows_its_definition() {
    for shape in SHAPES {
        let values = numbers(5, shape[0] * shape[1]);
        for steps in [1, 5] {
            let expected = by_definition(&values, shape, steps);
            for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::F64, 1e-9)] {
                let actual = orthogonalize(&values, shape, dtype, steps);
                assert_close(&format!("{shape:?}, {steps} steps"), &actual, &expected, tolerance);
            }
        }
    }
}

#[test]
fn singular_values_come_near_one() {
    for shape in [[8, 24], [24, 8]] {
        let [m, n] = shape;
        let x = orthogonalize(&numbers(9, m * n), shape, DType::F32, 5);
        let (short, long) = (m.min(n), m.max(n));
        let wide = if m <= n { x } else { transpose(&x, shape) };
        let gram = product(&wide, &transpose(&wide, [short, long]), [short, long, short]);
        let trace: f64 = (0..short).map(|i| gram[i * short + i]).sum();
        let mean = trace / short as f64;
        assert!((0.45..1.3).contains(&mean), "mean square of singular values {mean}");
        let power = |start: Vec<f64>| {
            (0..200).fold((start, 0.0), |(v, _), _| {
                let w = product(&gram, &v, [short, short, 1]);
                let norm = w.iter().map(|x| x * x).sum::<f64>().sqrt();
                (w.iter().map(|x| x / norm).collect(), norm)
            })
        };
        let (_, largest) = power(numbers(1, short));
        assert!(largest.sqrt() < 1.2, "largest singular value {}", largest.sqrt());
    }
}

#[test]
fn zeros_stay_zeros() {
    assert_eq!(orthogonalize(&[0.0; 12], [3, 4], DType::F32, 5), [0.0; 12]);
}
