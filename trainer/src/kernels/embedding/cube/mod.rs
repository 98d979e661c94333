//! The gradient of an embedding on a `CubeCL` device: sums over the tokens of each identifier, in their order.
#![expect(unsafe_code, reason = "a launch without bounds checks answers for its indices itself")]
#![expect(
    clippy::used_underscore_binding,
    reason = "the macro of a kernel names its element types"
)]

#[cfg(test)]
mod tests;

use burn::backend::TensorMetadata;
use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use crate::kernels::cube::{self, Team, contiguous, elem, matrix_dims, vector_size};

/// Units of a token's cube.
const UNITS: u32 = 256;

/// Consecutive identifiers that a unit compares: one bit of a word for each.
const WORD: usize = 32;

/// Adds up the gradients of the rows that each identifier looked up; rows that nobody looked up are zero.
///
/// An identifier outside of the vocabulary adds to nothing.
///
/// # Shapes
///
/// `ids` (any integer) has as many elements as `grad`, `[.., hidden]`, has rows; the result is `[vocabulary, hidden]` in
/// `dtype`.
pub(crate) fn embedding_backward(
    ids: CubeTensor,
    grad: CubeTensor,
    vocabulary: usize,
    dtype: DType,
) -> CubeTensor {
    let (ids, grad) = (contiguous(ids), contiguous(grad));
    let (tokens, hidden) = matrix_dims(&grad);
    debug_assert_eq!(ids.shape().num_elements(), tokens, "every row has an identifier");
    let table = cube::zeros(&grad, [vocabulary, hidden], dtype);
    if tokens * hidden * vocabulary == 0 {
        return table;
    }
    let client = grad.client.clone();
    let size = vector_size(hidden, &[grad.dtype, dtype]);
    let team = Team::new(&client, UNITS as usize, UNITS);
    let address = cube::address_type(&[&grad, &table]);
    let dtypes = [elem(grad.dtype), elem(dtype), elem(ids.dtype)];
    // SAFETY: cubes past the tokens and those of identifiers outside of the table return at once.
    unsafe {
        backward_kernel::launch_unchecked(
            &client,
            cube::cubes(&client, tokens),
            team.dim(),
            address,
            size,
            ids.into_buffer_arg(),
            grad.into_buffer_arg(),
            table.clone().into_buffer_arg(),
            tokens,
            vocabulary,
            hidden / size,
            team,
            dtypes,
        );
    }
    table
}

/// The cube of the first token of an identifier adds up the rows of all its tokens; the cubes of its other tokens return.
#[cube(launch_unchecked, address_type = "dynamic")]
fn backward_kernel<F: Float, W: Float, I: Int, N: Size>(
    ids: &[I],
    grad: &[Vector<F, N>],
    table: &mut [Vector<W, N>],
    tokens: usize,
    vocabulary: usize,
    columns: usize,
    #[comptime] team: Team,
    #[define(F, W, I)] _dtypes: [ElemType; 3],
) {
    let token = CUBE_POS;
    if token >= tokens {
        terminate!();
    }
    let id = i32::cast_from(ids[token]);
    if id < 0 || id >= vocabulary as i32 || is_later::<I>(ids, token, id, team) {
        terminate!();
    }
    let units = comptime!(team.units as usize);
    let block = comptime!(team.units as usize * WORD);
    let mut words = Shared::<[u32]>::new_slice(units);
    let mut column = 0usize;
    while column < columns {
        let mine = column + UNIT_POS as usize;
        let mut sum = Vector::<f32, N>::new(0.0);
        let mut first = token / block * block;
        while first < tokens {
            words[UNIT_POS as usize] = matches::<I>(ids, first, tokens, id);
            sync_cube();
            for unit in 0..units {
                let mut word = words[unit];
                let mut at = first + unit * WORD;
                // Sums of a few rows each keep what a long sum would round away.
                let mut part = Vector::<f32, N>::new(0.0);
                while word != 0 {
                    if word & 1 == 1 && mine < columns {
                        part += Vector::<f32, N>::cast_from(grad[at * columns + mine]);
                    }
                    word >>= 1;
                    at += 1;
                }
                sum += part;
            }
            sync_cube();
            first += block;
        }
        if mine < columns {
            table[id as usize * columns + mine] = Vector::cast_from(sum);
        }
        column += units;
    }
}

/// Tells whether a token before `token` has its identifier.
#[cube]
fn is_later<I: Int>(ids: &[I], token: usize, id: i32, #[comptime] team: Team) -> bool {
    let mut found = 0.0f32;
    let mut i = UNIT_POS as usize;
    while i < token {
        if i32::cast_from(ids[i]) == id {
            found = 1.0;
        }
        i += comptime!(team.units as usize);
    }
    cube::combine::<cube::Highest>(found, team) > 0.0
}

/// Returns a bit for each of a unit's identifiers of a block: whether it is `id`.
#[cube]
fn matches<I: Int>(ids: &[I], first: usize, tokens: usize, id: i32) -> u32 {
    let start = first + UNIT_POS as usize * WORD;
    let mut word = 0u32;
    for bit in 0..comptime!(WORD as u32) {
        let at = start + bit as usize;
        if at < tokens && i32::cast_from(ids[at]) == id {
            word |= 1u32 << bit;
        }
    }
    word
}
