//! The gradients of root-mean-square norm on a `CubeCL` device: the rows once, then the partial sums of the weight's gradient.
#![expect(unsafe_code, reason = "a launch without bounds checks answers for its indices itself")]
#![expect(
    clippy::used_underscore_binding,
    reason = "the macro of a kernel names its element types"
)]

use burn::backend::TensorMetadata;
use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::Row;
use crate::kernels::cube::{self, Sum, Team, combine, contiguous, elem, matrix_dims, vector_size};

/// Cubes that share the rows of a backward pass. Each leaves one sum of the weight's gradient, so their number settles the
/// order of summation whatever the device.
const GROUPS: usize = 256;

/// Columns and groups at a time of the second pass of the weight's gradient.
const SUMS: (u32, u32) = (32, 8);

/// Returns the gradients of the rows (over the buffer of `grad` where nobody else holds it) and of the weight, in their types.
///
/// `of_sum` is the gradient that the rows get besides that of their norm: that of the sum of [`add_rms_norm`](super::add_rms_norm).
///
/// # Shapes
///
/// `x` (the rows that were normalized), `grad`, `of_sum` and the rows' gradient are `[.., h]`, of one type; `weight` and its
/// gradient are `[h]`; `inverses` is `[rows]`.
pub(crate) fn rms_norm_backward(
    x: CubeTensor,
    weight: CubeTensor,
    inverses: CubeTensor,
    grad: CubeTensor,
    of_sum: Option<CubeTensor>,
) -> (CubeTensor, CubeTensor) {
    let [x, weight, inverses, grad] = [x, weight, inverses, grad].map(contiguous);
    let (rows, columns) = matrix_dims(&x);
    if rows * columns == 0 {
        return (grad, cube::zeros(&weight, weight.shape(), weight.dtype));
    }
    let row = Row::new(&x, &weight, columns);
    let groups = rows.min(GROUPS);
    let partial = cube::empty(&x, [groups, columns], DType::F32);
    let summed = of_sum.is_some();
    // Without a second gradient its argument is not read.
    let of_sum = of_sum.map_or_else(|| x.clone(), contiguous);
    let (dx, dx_arg) = cube::over(&grad, 0);
    // SAFETY: cubes past the groups return at once, and units stay within the vectors of their row.
    unsafe {
        backward_kernel::launch_unchecked(
            &x.client.clone(),
            cube::cubes(&x.client, groups),
            row.team.dim(),
            cube::address_type(&[&x, &partial]),
            row.size,
            grad.into_buffer_arg(),
            x.clone().into_buffer_arg(),
            weight.clone().into_buffer_arg(),
            inverses.into_buffer_arg(),
            of_sum.into_buffer_arg(),
            dx_arg,
            partial.clone().into_buffer_arg(),
            rows,
            groups,
            row.vectors,
            summed,
            row.held,
            row.team,
            [elem(x.dtype), elem(weight.dtype)],
        );
    }
    (dx, column_sums(partial, weight.dtype))
}

/// Returns the sums of the columns of a matrix of `f32`, in another type.
fn column_sums(partial: CubeTensor, dtype: DType) -> CubeTensor {
    let (rows, columns) = matrix_dims(&partial);
    let sums = cube::empty(&partial, [columns], dtype);
    let client = partial.client.clone();
    let size = vector_size(columns, &[DType::F32]);
    let vectors = columns / size;
    // SAFETY: units past the columns write nothing.
    unsafe {
        sums_kernel::launch_unchecked(
            &client,
            cube::cubes(&client, vectors.div_ceil(SUMS.0 as usize)),
            CubeDim::new_2d(SUMS.0, SUMS.1),
            cube::address_type(&[&partial]),
            size,
            partial.into_buffer_arg(),
            sums.clone().into_buffer_arg(),
            rows,
            vectors,
            elem(dtype),
        );
    }
    sums
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn backward_kernel<F: Float, W: Float, N: Size>(
    grad: &[Vector<F, N>],
    x: &[Vector<F, N>],
    weight: &[Vector<W, N>],
    inverses: &[f32],
    of_sum: &[Vector<F, N>],
    dx: &mut [Vector<F, N>],
    partial: &mut [Vector<f32, N>],
    rows: usize,
    groups: usize,
    columns: usize,
    #[comptime] summed: bool,
    #[comptime] held: usize,
    #[comptime] team: Team,
    #[define(F, W)] _dtypes: [ElemType; 2],
) {
    let group = CUBE_POS;
    if group >= groups {
        terminate!();
    }
    let units = comptime!(team.units as usize);
    let mut dw = Array::<Vector<f32, N>>::new(held);
    // The row, and its gradient times the weight.
    let mut values = Array::<Vector<f32, N>>::new(held);
    let mut scaled = Array::<Vector<f32, N>>::new(held);
    #[unroll]
    for k in 0..held {
        dw[k] = Vector::new(0.0);
    }
    let mut row = group;
    while row < rows {
        let inverse = inverses[row];
        let mut along = 0.0f32;
        #[unroll]
        for k in 0..held {
            let i = UNIT_POS as usize + k * units;
            if i < columns {
                let at = row * columns + i;
                let gradient = Vector::<f32, N>::cast_from(grad[at]);
                let value = Vector::<f32, N>::cast_from(x[at]);
                let product = gradient * Vector::<f32, N>::cast_from(weight[i]);
                along += (product * value).vector_sum();
                dw[k] += gradient * value * Vector::new(inverse);
                values[k] = value;
                scaled[k] = product;
            }
        }
        let mean = combine::<Sum>(along, team) / f32::cast_from(columns * N::value());
        let along = mean * inverse * inverse * inverse;
        #[unroll]
        for k in 0..held {
            let i = UNIT_POS as usize + k * units;
            if i < columns {
                let at = row * columns + i;
                let mut gradient =
                    scaled[k] * Vector::new(inverse) - values[k] * Vector::new(along);
                if comptime!(summed) {
                    gradient += Vector::<f32, N>::cast_from(of_sum[at]);
                }
                dx[at] = Vector::cast_from(gradient);
            }
        }
        row += groups;
    }
    #[unroll]
    for k in 0..held {
        let i = UNIT_POS as usize + k * units;
        if i < columns {
            partial[group * columns + i] = dw[k];
        }
    }
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn sums_kernel<W: Float, N: Size>(
    partial: &[Vector<f32, N>],
    sums: &mut [Vector<W, N>],
    rows: usize,
    columns: usize,
    #[define(W)] _dtype: ElemType,
) {
    let (width, height) = comptime!((SUMS.0 as usize, SUMS.1 as usize));
    let (x, y) = (UNIT_POS_X as usize, UNIT_POS_Y as usize);
    let column = CUBE_POS * width + x;
    let mut sum = Vector::<f32, N>::new(0.0);
    if column < columns {
        let mut row = y;
        while row < rows {
            sum += partial[row * columns + column];
            row += height;
        }
    }
    let mut shared = Shared::<[Vector<f32, N>]>::new_slice(width * height);
    shared[y * width + x] = sum;
    sync_cube();
    if y == 0 && column < columns {
        #[unroll]
        for k in 1..height {
            sum += shared[k * width + x];
        }
        sums[column] = Vector::cast_from(sum);
    }
}
