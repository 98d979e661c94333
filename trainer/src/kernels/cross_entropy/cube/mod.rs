//! Cross-entropy over rows of logits on a `CubeCL` device: one cube a row, loss and gradient in one launch.
#![expect(unsafe_code, reason = "a launch without bounds checks answers for its indices itself")]
#![expect(
    clippy::used_underscore_binding,
    reason = "the macro of a kernel names its element types"
)]

pub(crate) mod shard;
#[cfg(test)]
mod tests;

use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use crate::kernels::cube::{
    self, Highest, Sum, Team, combine, contiguous, elem, matrix_dims, vector_size,
};

/// Most units of a row's cube. Few large cubes keep few rows in flight, so that the second reading of a row finds it in the
/// cache.
const UNITS: u32 = 1024;

/// Returns each row's loss, and the gradient of their sum, over the logits' buffer where nobody else holds it.
///
/// Rows whose label is `ignored` have a loss and gradients of zero. A label outside of the vocabulary makes its loss NaN.
///
/// # Shapes
///
/// `logits` and the gradient are `[tokens, vocabulary]`, of one type; `labels` (any integer) is `[tokens]`; the losses are
/// `[tokens]` in `f32`.
///
/// # References
///
/// Online normalizer calculation for softmax, arXiv:1805.02867, algorithm 3.
pub(crate) fn cross_entropy_rows(
    logits: CubeTensor,
    labels: CubeTensor,
    ignored: i32,
) -> (CubeTensor, CubeTensor) {
    let (logits, labels) = (contiguous(logits), contiguous(labels));
    let (rows, columns) = matrix_dims(&logits);
    if rows * columns == 0 {
        return (cube::zeros(&logits, [rows], DType::F32), logits);
    }
    let losses = cube::empty(&logits, [rows], DType::F32);
    let client = logits.client.clone();
    let size = vector_size(columns, &[logits.dtype]);
    let team = Team::new(&client, columns / size, UNITS);
    let address = cube::address_type(&[&logits]);
    let dtypes = [elem(logits.dtype), elem(labels.dtype)];
    let (gradient, gradient_arg) = cube::over(&logits, 0);
    // SAFETY: cubes past the rows return at once, and units stay within the vectors of their row.
    unsafe {
        rows_kernel::launch_unchecked(
            &client,
            cube::cubes(&client, rows),
            team.dim(),
            address,
            size,
            logits.into_buffer_arg(),
            labels.into_buffer_arg(),
            losses.clone().into_buffer_arg(),
            gradient_arg,
            rows,
            columns / size,
            ignored,
            team,
            dtypes,
        );
    }
    (losses, gradient)
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn rows_kernel<F: Float, I: Int, N: Size>(
    logits: &[Vector<F, N>],
    labels: &[I],
    losses: &mut [f32],
    gradients: &mut [Vector<F, N>],
    rows: usize,
    columns: usize,
    ignored: i32,
    #[comptime] team: Team,
    #[define(F, I)] _dtypes: [ElemType; 2],
) {
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let first = row * columns;
    let units = comptime!(team.units as usize);
    let label = i32::cast_from(labels[row]);
    if label == ignored {
        let mut i = UNIT_POS as usize;
        while i < columns {
            gradients[first + i] = Vector::new(F::new(0.0));
            i += units;
        }
        if UNIT_POS == 0 {
            losses[row] = 0.0;
        }
        terminate!();
    }
    let (highest, total) = statistics::<F, N>(logits, first, columns, team);
    let target = target_logit::<F, N>(logits, first, columns, label);
    // Nobody may write a gradient before the label's logit was read.
    sync_cube();
    if UNIT_POS == 0 {
        // The logarithm of a negative number makes the loss of a label outside of the vocabulary NaN.
        let known = label >= 0 && label < (columns * N::value()) as i32;
        losses[row] = select(known, total, -total).ln() + highest - target;
    }
    let share = 1.0 / total;
    // Backwards: the end of the row was read last and is still in the cache.
    let mut i = UNIT_POS as usize;
    while i < columns {
        let at = columns - 1 - i;
        let logit = Vector::<f32, N>::cast_from(logits[first + at]);
        let shares = (logit - Vector::new(highest)).exp() * Vector::new(share);
        let gradient = without_label::<N>(shares, at, label, 1.0);
        gradients[first + at] = Vector::cast_from(gradient);
        i += units;
    }
}

/// Returns a row's largest logit and its sum of `exp(logit - largest)`, having read the row once.
#[cube]
fn statistics<F: Float, N: Size>(
    logits: &[Vector<F, N>],
    first: usize,
    columns: usize,
    #[comptime] team: Team,
) -> (f32, f32) {
    let mut highest = f32::min_value();
    let mut total = 0.0f32;
    let mut i = UNIT_POS as usize;
    while i < columns {
        let logit = Vector::<f32, N>::cast_from(logits[first + i]);
        let largest = max(highest, vector_max::<N>(logit));
        let shares = (logit - Vector::new(largest)).exp();
        total = total * (highest - largest).exp() + shares.vector_sum();
        highest = largest;
        i += comptime!(team.units as usize);
    }
    let largest = combine::<Highest>(highest, team);
    let sum = combine::<Sum>(total * (highest - largest).exp(), team);
    (largest, sum)
}

/// Returns the largest element.
#[cube]
fn vector_max<N: Size>(values: Vector<f32, N>) -> f32 {
    let mut largest = values.extract(0usize);
    #[unroll]
    for k in 1..N::value() {
        largest = max(largest, values.extract(k));
    }
    largest
}

/// Returns the logit of a label, or zero where the label lies outside of the row.
#[cube]
fn target_logit<F: Float, N: Size>(
    logits: &[Vector<F, N>],
    first: usize,
    columns: usize,
    label: i32,
) -> f32 {
    let mut target = 0.0f32;
    if label >= 0 && label < (columns * N::value()) as i32 {
        let label = label as usize;
        let logit = Vector::<f32, N>::cast_from(logits[first + label / N::value()]);
        let lane = label % N::value();
        #[unroll]
        for k in 0..N::value() {
            if k == lane {
                target = logit.extract(k);
            }
        }
    }
    target
}

/// Subtracts `factor` from the label's element of the vector at `at`.
#[cube]
fn without_label<N: Size>(
    values: Vector<f32, N>,
    at: usize,
    label: i32,
    factor: f32,
) -> Vector<f32, N> {
    let mut result = values;
    let start = (at * N::value()) as i32;
    if label >= start && label < start + N::value() as i32 {
        #[unroll]
        for k in 0..N::value() {
            let value = result.extract(k);
            let hit = label == start + k as i32;
            result.insert(k, select(hit, value - factor, value));
        }
    }
    result
}
