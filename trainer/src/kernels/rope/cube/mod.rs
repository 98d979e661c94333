//! Rotary position embedding on a `CubeCL` device.
#![expect(unsafe_code, reason = "a launch without bounds checks answers for its indices itself")]
#![expect(
    clippy::used_underscore_binding,
    reason = "the macro of a kernel names its element types"
)]

#[cfg(test)]
mod tests;

use burn::backend::TensorMetadata;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use crate::kernels::cube::{self, contiguous, elem, vector_size};

/// Says at which positions the tokens of a batch stand.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "a few live at a time, on the stack")]
pub(crate) enum Positions {
    /// Token `i` of each sequence stands at position `offset + i`, which the table must hold.
    Offset(usize),
    /// Each token's position, `[batch, sequence]`, any integer. A position outside of the table makes its token NaN.
    PerToken(CubeTensor),
}

/// Which way pairs are turned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Direction {
    /// By the angle.
    Forward,
    /// By the opposite angle: the gradient.
    Backward,
}

/// Rotates each pair `(x[i], x[i + head_dim / 2])` by its position's angle, over the buffer of `x` where nobody else holds it.
///
/// # Shapes
///
/// `x` and the result are `[batch, sequence, heads, head_dim]`, of one type; `cos` and `sin` are `[positions, head_dim / 2]` in
/// `f32`.
pub(crate) fn rotate(
    x: CubeTensor,
    [cos, sin]: [CubeTensor; 2],
    positions: &Positions,
    direction: Direction,
) -> CubeTensor {
    let [x, cos, sin] = [x, cos, sin].map(contiguous);
    let [_, sequence, heads, head_dim] = x.shape().dims::<4>();
    let half = head_dim / 2;
    let pairs = x.shape().num_elements() / 2;
    if pairs == 0 {
        return x;
    }
    let client = x.client.clone();
    let size = vector_size(half, &[x.dtype]);
    let shape = Heads { count: heads, half: half / size, direction };
    let (count, dim) = cube::elementwise(&client, pairs / size);
    let address = cube::address_type(&[&x, &cos]);
    let dtype = elem(x.dtype);
    let known = cos.shape()[0];
    let (output, output_arg) = cube::over(&x, 0);
    let (x, cos, sin) = (x.into_buffer_arg(), cos.into_buffer_arg(), sin.into_buffer_arg());
    // SAFETY: units past the pairs return at once; positions past the table are not looked up.
    unsafe {
        match positions {
            Positions::Offset(offset) => offset_kernel::launch_unchecked(
                &client,
                count,
                dim,
                address,
                size,
                x,
                cos,
                sin,
                output_arg,
                pairs / size,
                sequence,
                *offset,
                shape,
                dtype,
            ),
            Positions::PerToken(ids) => {
                let ids = contiguous(ids.clone());
                let dtypes = [dtype, elem(ids.dtype)];
                let ids = ids.into_buffer_arg();
                token_kernel::launch_unchecked(
                    &client,
                    count,
                    dim,
                    address,
                    size,
                    x,
                    cos,
                    sin,
                    ids,
                    output_arg,
                    pairs / size,
                    known,
                    shape,
                    dtypes,
                );
            }
        }
    }
    output
}

/// What is fixed when a kernel is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Heads {
    count: usize,
    /// Vectors of half a head.
    half: usize,
    direction: Direction,
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn offset_kernel<F: Float, N: Size>(
    x: &[Vector<F, N>],
    cos: &[Vector<f32, N>],
    sin: &[Vector<f32, N>],
    output: &mut [Vector<F, N>],
    pairs: usize,
    sequence: usize,
    offset: usize,
    #[comptime] shape: Heads,
    #[define(F)] _dtype: ElemType,
) {
    let pair = ABSOLUTE_POS;
    if pair >= pairs {
        terminate!();
    }
    let token = pair / comptime!(shape.count * shape.half);
    let at = (offset + token % sequence) * comptime!(shape.half) + pair % comptime!(shape.half);
    turn::<F, N>(x, output, pair, cos[at], sin[at], shape);
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn token_kernel<F: Float, I: Int, N: Size>(
    x: &[Vector<F, N>],
    cos: &[Vector<f32, N>],
    sin: &[Vector<f32, N>],
    positions: &[I],
    output: &mut [Vector<F, N>],
    pairs: usize,
    known: usize,
    #[comptime] shape: Heads,
    #[define(F, I)] _dtypes: [ElemType; 2],
) {
    let pair = ABSOLUTE_POS;
    if pair >= pairs {
        terminate!();
    }
    let token = pair / comptime!(shape.count * shape.half);
    let position = i32::cast_from(positions[token]);
    let valid = position >= 0 && position < known as i32;
    let row = select(valid, position, 0) as usize;
    let at = row * comptime!(shape.half) + pair % comptime!(shape.half);
    // The root of a negative number is NaN; a constant NaN is not portable.
    let factor = Vector::new(f32::cast_from(select(valid, 1i32, -1i32)).sqrt());
    turn::<F, N>(x, output, pair, cos[at] * factor, sin[at] * factor, shape);
}

/// Rotates one vector of pairs.
#[cube]
fn turn<F: Float, N: Size>(
    x: &[Vector<F, N>],
    output: &mut [Vector<F, N>],
    pair: usize,
    cos: Vector<f32, N>,
    sin: Vector<f32, N>,
    #[comptime] shape: Heads,
) {
    let half = comptime!(shape.half);
    let low = pair / half * (2 * half) + pair % half;
    let high = low + half;
    let a = Vector::<f32, N>::cast_from(x[low]);
    let b = Vector::<f32, N>::cast_from(x[high]);
    if comptime!(shape.direction == Direction::Forward) {
        output[low] = Vector::cast_from(a * cos - b * sin);
        output[high] = Vector::cast_from(b * cos + a * sin);
    } else {
        output[low] = Vector::cast_from(a * cos + b * sin);
        output[high] = Vector::cast_from(b * cos - a * sin);
    }
}
