//! Root-mean-square norm on a `CubeCL` device, alone and of a sum: one cube a row, read once.
#![expect(unsafe_code, reason = "a launch without bounds checks answers for its indices itself")]
#![expect(
    clippy::used_underscore_binding,
    reason = "the macro of a kernel names its element types"
)]

pub(crate) mod backward;
#[cfg(test)]
mod tests;

use burn::backend::TensorMetadata;
use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use crate::kernels::cube::{self, Sum, Team, combine, contiguous, elem, matrix_dims, vector_size};

/// Most units of a row's cube.
const UNITS: u32 = 512;

/// Divides each row by its root mean square and scales it; returns the result and each row's inverse root mean square.
///
/// # Shapes
///
/// `x` and the result are `[.., h]`, of one type; `weight` is `[h]`; the inverses are `[rows]` in `f32`.
///
/// # References
///
/// Root Mean Square Layer Normalization, arXiv:1910.07467, equation 4.
pub(crate) fn rms_norm(
    x: CubeTensor,
    weight: CubeTensor,
    epsilon: f32,
) -> (CubeTensor, CubeTensor) {
    let (x, weight) = (contiguous(x), contiguous(weight));
    let (rows, columns) = matrix_dims(&x);
    let inverses = cube::empty(&x, [rows], DType::F32);
    if rows * columns == 0 {
        return (x, inverses);
    }
    let row = Row::new(&x, &weight, columns);
    let (y, y_arg) = cube::over(&x, 0);
    // SAFETY: cubes past the rows return at once, and units stay within the vectors of their row.
    unsafe {
        forward_kernel::launch_unchecked(
            &x.client.clone(),
            cube::cubes(&x.client, rows),
            row.team.dim(),
            cube::address_type(&[&x]),
            row.size,
            x.clone().into_buffer_arg(),
            weight.clone().into_buffer_arg(),
            y_arg,
            inverses.clone().into_buffer_arg(),
            rows,
            row.vectors,
            epsilon,
            row.held,
            row.team,
            [elem(x.dtype), elem(weight.dtype)],
        );
    }
    (y, inverses)
}

/// Adds `delta` to `x` and applies [`rms_norm`] to the sum, as it was rounded; returns the sum (over the buffer of `delta`
/// where nobody else holds it), its norm and each row's inverse root mean square.
///
/// # Shapes
///
/// As in [`rms_norm`]; `delta` and the sum have the shape and type of `x`.
pub(crate) fn add_rms_norm(
    x: CubeTensor,
    delta: CubeTensor,
    weight: CubeTensor,
    epsilon: f32,
) -> (CubeTensor, CubeTensor, CubeTensor) {
    let [x, delta, weight] = [x, delta, weight].map(contiguous);
    let (rows, columns) = matrix_dims(&x);
    let y = cube::empty(&x, x.shape(), x.dtype);
    let inverses = cube::empty(&x, [rows], DType::F32);
    if rows * columns == 0 {
        return (x, y, inverses);
    }
    let row = Row::new(&x, &weight, columns);
    let (sum, sum_arg) = cube::over(&delta, 1);
    // SAFETY: cubes past the rows return at once, and units stay within the vectors of their row.
    unsafe {
        add_kernel::launch_unchecked(
            &x.client.clone(),
            cube::cubes(&x.client, rows),
            row.team.dim(),
            cube::address_type(&[&x]),
            row.size,
            x.clone().into_buffer_arg(),
            delta.into_buffer_arg(),
            weight.clone().into_buffer_arg(),
            sum_arg,
            y.clone().into_buffer_arg(),
            inverses.clone().into_buffer_arg(),
            rows,
            row.vectors,
            epsilon,
            row.held,
            row.team,
            [elem(x.dtype), elem(weight.dtype)],
        );
    }
    (sum, y, inverses)
}

/// How a cube divides a row.
struct Row {
    /// Elements of a vector.
    size: usize,
    /// Vectors of the row.
    vectors: usize,
    /// Vectors that each unit holds in registers between the two passes.
    held: usize,
    team: Team,
}

impl Row {
    fn new(x: &CubeTensor, weight: &CubeTensor, columns: usize) -> Self {
        let size = vector_size(columns, &[x.dtype, weight.dtype]);
        let vectors = columns / size;
        let team = Team::new(&x.client, vectors, UNITS);
        Self { size, vectors, held: vectors.div_ceil(team.units as usize), team }
    }
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn forward_kernel<F: Float, W: Float, N: Size>(
    x: &[Vector<F, N>],
    weight: &[Vector<W, N>],
    y: &mut [Vector<F, N>],
    inverses: &mut [f32],
    rows: usize,
    columns: usize,
    epsilon: f32,
    #[comptime] held: usize,
    #[comptime] team: Team,
    #[define(F, W)] _dtypes: [ElemType; 2],
) {
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let mut values = Array::<Vector<f32, N>>::new(held);
    let mut squares = 0.0f32;
    #[unroll]
    for k in 0..held {
        let i = UNIT_POS as usize + k * comptime!(team.units as usize);
        if i < columns {
            let value = Vector::<f32, N>::cast_from(x[row * columns + i]);
            squares += (value * value).vector_sum();
            values[k] = value;
        }
    }
    let inverse = inverse_root::<N>(squares, columns, epsilon, team);
    scale::<F, W, N>(values, weight, y, row * columns, columns, inverse, held, team);
    if UNIT_POS == 0 {
        inverses[row] = inverse;
    }
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn add_kernel<F: Float, W: Float, N: Size>(
    x: &[Vector<F, N>],
    delta: &[Vector<F, N>],
    weight: &[Vector<W, N>],
    sum: &mut [Vector<F, N>],
    y: &mut [Vector<F, N>],
    inverses: &mut [f32],
    rows: usize,
    columns: usize,
    epsilon: f32,
    #[comptime] held: usize,
    #[comptime] team: Team,
    #[define(F, W)] _dtypes: [ElemType; 2],
) {
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let mut values = Array::<Vector<f32, N>>::new(held);
    let mut squares = 0.0f32;
    #[unroll]
    for k in 0..held {
        let i = UNIT_POS as usize + k * comptime!(team.units as usize);
        if i < columns {
            let at = row * columns + i;
            let wide = Vector::<f32, N>::cast_from(x[at]) + Vector::<f32, N>::cast_from(delta[at]);
            let rounded = Vector::<F, N>::cast_from(wide);
            sum[at] = rounded;
            let value = Vector::<f32, N>::cast_from(rounded);
            squares += (value * value).vector_sum();
            values[k] = value;
        }
    }
    let inverse = inverse_root::<N>(squares, columns, epsilon, team);
    scale::<F, W, N>(values, weight, y, row * columns, columns, inverse, held, team);
    if UNIT_POS == 0 {
        inverses[row] = inverse;
    }
}

/// Returns the inverse root mean square of a row, given each unit's sum of squares.
#[cube]
fn inverse_root<N: Size>(
    squares: f32,
    columns: usize,
    epsilon: f32,
    #[comptime] team: Team,
) -> f32 {
    let mean = combine::<Sum>(squares, team) / f32::cast_from(columns * N::value());
    1.0 / (mean + epsilon).sqrt()
}

/// Writes a unit's part of a row, normalized and scaled.
#[cube]
fn scale<F: Float, W: Float, N: Size>(
    values: Array<Vector<f32, N>>,
    weight: &[Vector<W, N>],
    y: &mut [Vector<F, N>],
    first: usize,
    columns: usize,
    inverse: f32,
    #[comptime] held: usize,
    #[comptime] team: Team,
) {
    #[unroll]
    for k in 0..held {
        let i = UNIT_POS as usize + k * comptime!(team.units as usize);
        if i < columns {
            let weight = Vector::<f32, N>::cast_from(weight[i]);
            y[first + i] = Vector::cast_from(values[k] * Vector::new(inverse) * weight);
        }
    }
}
