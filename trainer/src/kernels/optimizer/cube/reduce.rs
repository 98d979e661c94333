//! Sums of squares and accumulation on a `CubeCL` device.
#![expect(unsafe_code, reason = "a launch without bounds checks answers for its indices itself")]
#![expect(
    clippy::used_underscore_binding,
    reason = "the macro of a kernel names its element types"
)]

use burn::backend::TensorMetadata;
use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use crate::kernels::cube::{self, Sum, Team, combine, contiguous, elem, vector_size};

/// Most cubes that share a sum. Their number depends on the length alone, and with it the order of summation.
const GROUPS: usize = 1024;

/// Units of a cube of a sum, and vectors that each reads at least.
const UNITS: u32 = 256;
const READ: usize = 4;

/// Returns the sum of squares, `[1]` in `f32`, summed in an order that depends on the length alone.
pub(crate) fn sum_of_squares(tensor: CubeTensor) -> CubeTensor {
    let tensor = contiguous(tensor);
    let len = tensor.shape().num_elements();
    if len == 0 {
        return cube::zeros(&tensor, [1], DType::F32);
    }
    let vectors = len / vector_size(len, &[tensor.dtype]);
    let groups = vectors.div_ceil(UNITS as usize * READ).min(GROUPS);
    let partial = sums(tensor, groups, true);
    if groups == 1 { partial } else { sums(partial, 1, false) }
}

/// Returns `groups` sums, of the elements or of their squares.
fn sums(tensor: CubeTensor, groups: usize, squared: bool) -> CubeTensor {
    let len = tensor.shape().num_elements();
    let client = tensor.client.clone();
    let size = vector_size(len, &[tensor.dtype]);
    let team = Team::new(&client, UNITS as usize, UNITS);
    let output = cube::empty(&tensor, [groups], DType::F32);
    let (address, dtype) = (cube::address_type(&[&tensor]), elem(tensor.dtype));
    // SAFETY: cubes past the groups return at once, and units stay within the vectors.
    unsafe {
        sums_kernel::launch_unchecked(
            &client,
            cube::cubes(&client, groups),
            team.dim(),
            address,
            size,
            tensor.into_buffer_arg(),
            output.clone().into_buffer_arg(),
            len / size,
            groups,
            squared,
            team,
            dtype,
        );
    }
    output
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn sums_kernel<F: Float, N: Size>(
    values: &[Vector<F, N>],
    sums: &mut [f32],
    len: usize,
    groups: usize,
    #[comptime] squared: bool,
    #[comptime] team: Team,
    #[define(F)] _dtype: ElemType,
) {
    let group = CUBE_POS;
    if group >= groups {
        terminate!();
    }
    let units = comptime!(team.units as usize);
    let mut sum = Vector::<f32, N>::new(0.0);
    let mut i = group * units + UNIT_POS as usize;
    while i < len {
        let value = Vector::<f32, N>::cast_from(values[i]);
        if comptime!(squared) {
            sum = fma(value, value, sum);
        } else {
            sum += value;
        }
        i += groups * units;
    }
    let total = combine::<Sum>(sum.vector_sum(), team);
    if UNIT_POS == 0 {
        sums[group] = total;
    }
}

/// Adds `factor` times a gradient to an accumulated one, over the buffer of that where nobody else holds it.
///
/// # Shapes
///
/// All tensors have one length; the result has the type of `into`.
pub(crate) fn accumulate(into: CubeTensor, grad: CubeTensor, factor: f32) -> CubeTensor {
    let (into, grad) = (contiguous(into), contiguous(grad));
    let len = into.shape().num_elements();
    if len == 0 {
        return into;
    }
    let client = into.client.clone();
    let dtypes = [into.dtype, grad.dtype];
    let size = vector_size(len, &dtypes);
    let (count, dim) = cube::elementwise(&client, len / size);
    let address = cube::address_type(&[&into]);
    let (output, output_arg) = cube::over(&into, 0);
    // SAFETY: units past the vectors return at once.
    unsafe {
        accumulate_kernel::launch_unchecked(
            &client,
            count,
            dim,
            address,
            size,
            into.into_buffer_arg(),
            grad.into_buffer_arg(),
            output_arg,
            factor,
            len / size,
            dtypes.map(elem),
        );
    }
    output
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn accumulate_kernel<A: Float, G: Float, N: Size>(
    into: &[Vector<A, N>],
    grad: &[Vector<G, N>],
    output: &mut [Vector<A, N>],
    factor: f32,
    len: usize,
    #[define(A, G)] _dtypes: [ElemType; 2],
) {
    let i = ABSOLUTE_POS;
    if i >= len {
        terminate!();
    }
    let value = Vector::<f32, N>::cast_from(into[i]);
    let gradient = Vector::<f32, N>::cast_from(grad[i]);
    output[i] = Vector::cast_from(fma(Vector::new(factor), gradient, value));
}
