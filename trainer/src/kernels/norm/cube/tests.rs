//! Root-mean-square norm on a `CubeCL` device against `f64` on the host.

use burn::tensor::DType;

use super::backward::rms_norm_backward;
use super::{add_rms_norm, rms_norm};
use crate::kernels::cube::tests::{assert_tensor, dtypes, floats, numbers, read};

const EPSILON: f32 = 1e-5;

/// Rows and their length: rows of no whole vector, more rows than groups, rows longer than a cube.
const SHAPES: [(usize, usize); 7] =
    [(1, 2), (3, 7), (5, 12), (600, 64), (3, 2048), (2, 4100), (2, 8192)];

fn inverses(x: &[f64], h: usize) -> Vec<f64> {
    let square = |row: &[f64]| row.iter().map(|x| x * x).sum::<f64>() / h as f64;
    x.chunks_exact(h).map(|row| 1.0 / (square(row) + f64::from(EPSILON)).sqrt()).collect()
}

fn forward(x: &[f64], weight: &[f64]) -> Vec<f64> {
    let h = weight.len();
    let rows = x.chunks_exact(h).zip(inverses(x, h));
    rows.flat_map(|(row, inverse)| {
        row.iter().zip(weight).map(|(x, w)| x * w * inverse).collect::<Vec<_>>()
    })
    .collect()
}

/// Returns the gradients of the rows and of the weight.
fn backward(x: &[f64], weight: &[f64], grad: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let h = weight.len();
    let (mut dx, mut dw) = (Vec::new(), vec![0.0; h]);
    let rows = x.chunks_exact(h).zip(grad.chunks_exact(h)).zip(inverses(x, h));
    for ((x, g), inverse) in rows {
        let sum: f64 = (0..h).map(|i| g[i] * x[i] * weight[i]).sum();
        let along = sum * inverse.powi(3) / h as f64;
        for i in 0..h {
            dw[i] += g[i] * x[i] * inverse;
            dx.push(g[i] * weight[i] * inverse - x[i] * along);
        }
    }
    (dx, dw)
}

/// The types of rows and weight.
fn pairs() -> Vec<[DType; 2]> {
    dtypes().into_iter().flat_map(|dtype| [[dtype, dtype], [dtype, DType::F32]]).collect()
}

#[test]
fn norms_and_gradients_equal_the_reference() {
    for [dtype, of_weight] in pairs() {
        for (rows, h) in SHAPES {
            let what = format!("{rows} x {h}, weight in {of_weight:?}");
            let x = numbers(1, rows * h, 2.0, dtype);
            let weight = numbers(2, h, 1.0, of_weight);
            let grad = numbers(3, rows * h, 1.0, dtype);
            let place = |values: &[f64]| floats(values, [rows, h], dtype);
            let w = || floats(&weight, [h], of_weight);
            let device = place(&x);
            let (y, inverse) = rms_norm(device.clone(), w(), EPSILON);
            assert_eq!(read(device.clone()), x, "{what}: a shared buffer is not written");
            assert_tensor(&format!("{what}: y"), y, &forward(&x, &weight));
            assert_tensor(&format!("{what}: inverses"), inverse.clone(), &inverses(&x, h));
            let (y, _) = rms_norm(place(&x), w(), EPSILON);
            assert_tensor(&format!("{what}: in place"), y, &forward(&x, &weight));

            let (dx, dw) = backward(&x, &weight, &grad);
            let (actual, of_w) = rms_norm_backward(device, w(), inverse, place(&grad), None);
            assert_tensor(&format!("{what}: dx"), actual, &dx);
            assert_tensor(&format!("{what}: dw"), of_w, &dw);
        }
    }
}

#[test]
fn the_norm_of_a_sum_equals_the_reference() {
    for dtype in dtypes() {
        for (rows, h) in SHAPES {
            let what = format!("{rows} x {h}");
            let [x, delta, of_y, of_sum] =
                [1, 2, 3, 4].map(|seed| numbers(seed, rows * h, 2.0, dtype));
            let weight = numbers(5, h, 1.0, DType::F32);
            let place = |values: &[f64]| floats(values, [rows, h], dtype);
            let w = || floats(&weight, [h], DType::F32);
            let (sum, y, inverse) = add_rms_norm(place(&x), place(&delta), w(), EPSILON);
            let exact: Vec<f64> = x.iter().zip(&delta).map(|(a, b)| a + b).collect();
            assert_tensor(&format!("{what}: sum"), sum.clone(), &exact);
            // The norm is that of the sum as it was rounded.
            let rounded = read(sum.clone());
            assert_tensor(&format!("{what}: y"), y, &forward(&rounded, &weight));

            let (mut dx, dw) = backward(&rounded, &weight, &of_y);
            dx.iter_mut().zip(&of_sum).for_each(|(dx, g)| *dx += g);
            let (actual, of_w) =
                rms_norm_backward(sum, w(), inverse, place(&of_y), Some(place(&of_sum)));
            assert_tensor(&format!("{what}: dx"), actual, &dx);
            assert_tensor(&format!("{what}: dw"), of_w, &dw);
        }
    }
}

#[test]
fn nothing_is_normalized_to_nothing() {
    let (x, w) = (floats(&[], [0, 8], DType::F32), floats(&[1.0; 8], [8], DType::F32));
    let (y, inverse) = rms_norm(x.clone(), w.clone(), EPSILON);
    assert_eq!(read(y.clone()), [0.0; 0]);
    let (dx, dw) = rms_norm_backward(x, w, inverse, y, None);
    assert_eq!((read(dx).len(), read(dw)), (0, vec![0.0; 8]));
}
