//! The local parts of cross-entropy over a sharded vocabulary on a `CubeCL` device: one cube a row.
#![expect(unsafe_code, reason = "a launch without bounds checks answers for its indices itself")]
#![expect(
    clippy::used_underscore_binding,
    reason = "the macro of a kernel names its element types"
)]

use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::{UNITS, target_logit, vector_max, without_label};
use crate::kernels::cube::{
    self, Highest, Sum, Team, combine, contiguous, elem, matrix_dims, vector_size,
};

/// Returns each row's largest logit of this shard.
///
/// # Shapes
///
/// `logits` is `[tokens, local vocabulary]`; the result is `[tokens]` in `f32`.
pub(crate) fn maxima(logits: CubeTensor) -> CubeTensor {
    let logits = contiguous(logits);
    let (rows, columns) = matrix_dims(&logits);
    if rows * columns == 0 {
        return cube::zeros(&logits, [rows], DType::F32);
    }
    let maxima = cube::empty(&logits, [rows], DType::F32);
    let client = logits.client.clone();
    let size = vector_size(columns, &[logits.dtype]);
    let team = Team::new(&client, columns / size, UNITS);
    let (address, dtype) = (cube::address_type(&[&logits]), elem(logits.dtype));
    // SAFETY: cubes past the rows return at once, and units stay within the vectors of their row.
    unsafe {
        maxima_kernel::launch_unchecked(
            &client,
            cube::cubes(&client, rows),
            team.dim(),
            address,
            size,
            logits.into_buffer_arg(),
            maxima.clone().into_buffer_arg(),
            rows,
            columns / size,
            team,
            dtype,
        );
    }
    maxima
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn maxima_kernel<F: Float, N: Size>(
    logits: &[Vector<F, N>],
    maxima: &mut [f32],
    rows: usize,
    columns: usize,
    #[comptime] team: Team,
    #[define(F)] _dtype: ElemType,
) {
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let mut highest = f32::min_value();
    let mut i = UNIT_POS as usize;
    while i < columns {
        let logit = Vector::<f32, N>::cast_from(logits[row * columns + i]);
        highest = max(highest, vector_max::<N>(logit));
        i += comptime!(team.units as usize);
    }
    let highest = combine::<Highest>(highest, team);
    if UNIT_POS == 0 {
        maxima[row] = highest;
    }
}

/// Returns each row's sum of `exp(logit - maximum)` over this shard, and its label's logit where that lies in the shard (zero
/// elsewhere).
///
/// # Shapes
///
/// `logits` is `[tokens, local vocabulary]` and begins at the global index `first`; `labels` (any integer), `maxima` and both
/// results, in `f32`, are `[tokens]`.
pub(crate) fn sums(
    logits: CubeTensor,
    labels: CubeTensor,
    maxima: CubeTensor,
    first: usize,
) -> (CubeTensor, CubeTensor) {
    let [logits, labels, maxima] = [logits, labels, maxima].map(contiguous);
    let (rows, columns) = matrix_dims(&logits);
    if rows * columns == 0 {
        let zeros = cube::zeros(&logits, [rows], DType::F32);
        return (zeros.clone(), zeros);
    }
    let [sums, targets] = [(); 2].map(|()| cube::empty(&logits, [rows], DType::F32));
    let client = logits.client.clone();
    let size = vector_size(columns, &[logits.dtype]);
    let team = Team::new(&client, columns / size, UNITS);
    let address = cube::address_type(&[&logits]);
    let dtypes = [elem(logits.dtype), elem(maxima.dtype), elem(labels.dtype)];
    // SAFETY: cubes past the rows return at once, and units stay within the vectors of their row.
    unsafe {
        sums_kernel::launch_unchecked(
            &client,
            cube::cubes(&client, rows),
            team.dim(),
            address,
            size,
            logits.into_buffer_arg(),
            labels.into_buffer_arg(),
            maxima.into_buffer_arg(),
            sums.clone().into_buffer_arg(),
            targets.clone().into_buffer_arg(),
            rows,
            columns / size,
            first as i32,
            team,
            dtypes,
        );
    }
    (sums, targets)
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn sums_kernel<F: Float, M: Float, I: Int, N: Size>(
    logits: &[Vector<F, N>],
    labels: &[I],
    maxima: &[M],
    sums: &mut [f32],
    targets: &mut [f32],
    rows: usize,
    columns: usize,
    start: i32,
    #[comptime] team: Team,
    #[define(F, M, I)] _dtypes: [ElemType; 3],
) {
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let first = row * columns;
    let highest = f32::cast_from(maxima[row]);
    let mut total = 0.0f32;
    let mut i = UNIT_POS as usize;
    while i < columns {
        let logit = Vector::<f32, N>::cast_from(logits[first + i]);
        total += (logit - Vector::new(highest)).exp().vector_sum();
        i += comptime!(team.units as usize);
    }
    let total = combine::<Sum>(total, team);
    if UNIT_POS == 0 {
        sums[row] = total;
        let label = i32::cast_from(labels[row]) - start;
        targets[row] = target_logit::<F, N>(logits, first, columns, label);
    }
}

/// Returns this shard of the gradient of the summed loss, times `factor`, over the logits' buffer where nobody else holds it.
///
/// Rows whose label is `ignored` have gradients of zero.
///
/// # Shapes
///
/// `logits` and the result are `[tokens, local vocabulary]`, of one type, and begin at the global index `first`; `labels` (any
/// integer) and `log_totals` (the logarithm of the sum over all shards, plus the maximum) are `[tokens]`.
pub(crate) fn gradients(
    logits: CubeTensor,
    labels: CubeTensor,
    log_totals: CubeTensor,
    first: usize,
    factor: f32,
    ignored: i32,
) -> CubeTensor {
    let [logits, labels, log_totals] = [logits, labels, log_totals].map(contiguous);
    let (rows, columns) = matrix_dims(&logits);
    if rows * columns == 0 {
        return logits;
    }
    let client = logits.client.clone();
    let size = vector_size(columns, &[logits.dtype]);
    let team = Team::new(&client, columns / size, UNITS);
    let address = cube::address_type(&[&logits]);
    let dtypes = [elem(logits.dtype), elem(log_totals.dtype), elem(labels.dtype)];
    let (gradient, gradient_arg) = cube::over(&logits, 0);
    // SAFETY: cubes past the rows return at once, and units stay within the vectors of their row.
    unsafe {
        gradients_kernel::launch_unchecked(
            &client,
            cube::cubes(&client, rows),
            team.dim(),
            address,
            size,
            logits.into_buffer_arg(),
            labels.into_buffer_arg(),
            log_totals.into_buffer_arg(),
            gradient_arg,
            rows,
            columns / size,
            first as i32,
            factor,
            ignored,
            team,
            dtypes,
        );
    }
    gradient
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn gradients_kernel<F: Float, T: Float, I: Int, N: Size>(
    logits: &[Vector<F, N>],
    labels: &[I],
    log_totals: &[T],
    gradients: &mut [Vector<F, N>],
    rows: usize,
    columns: usize,
    start: i32,
    factor: f32,
    ignored: i32,
    #[comptime] team: Team,
    #[define(F, T, I)] _dtypes: [ElemType; 3],
) {
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let log_total = f32::cast_from(log_totals[row]);
    let label = i32::cast_from(labels[row]);
    let factor = select(label == ignored, 0.0, factor);
    let mut i = UNIT_POS as usize;
    while i < columns {
        let at = row * columns + i;
        let logit = Vector::<f32, N>::cast_from(logits[at]);
        let shares = (logit - Vector::new(log_total)).exp() * Vector::new(factor);
        gradients[at] = Vector::cast_from(without_label::<N>(shares, i, label - start, factor));
        i += comptime!(team.units as usize);
    }
}
