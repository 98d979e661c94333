//! Blocks of all members in one buffer: put together to be sent, and put in place or reduced where
//! they were received.

use burn::tensor::{Bytes, DType, Element, TensorData, bf16, f16};

use super::super::{Collective, ReduceOp};
use super::plan::{Interleave, Plan};
use super::reduce::{Lane, finish, fold, start};

/// Elements accumulated at a time, so that the accumulator stays in the first-level cache.
const BLOCK: usize = 1024;

/// Puts the block for each member together, in the order of the members.
pub(crate) fn pack(collective: Collective, plan: &Plan, members: usize, data: TensorData) -> Bytes {
    // An all-reduce and whole tensors go as they are.
    if collective.split_dim().is_none() || plan.source.is_blockwise(plan.length) {
        return data.into_bytes();
    }
    let moved = permute(data.as_bytes(), plan, members, data.dtype(), plan.source, true);
    Bytes::from_bytes_vec(moved)
}

/// Puts the blocks of all members where they belong in the result.
pub(crate) fn unpack(plan: &Plan, members: usize, data: TensorData) -> TensorData {
    let (result, dtype) = (plan.result.clone(), data.dtype());
    if plan.target.is_blockwise(plan.length) {
        return TensorData::from_bytes(data.into_bytes(), result, dtype);
    }
    let moved = permute(data.as_bytes(), plan, members, dtype, plan.target, false);
    TensorData::from_bytes_vec(moved, result, dtype)
}

/// Moves blocks between their order by member and their place in a tensor.
fn permute(
    bytes: &[u8],
    plan: &Plan,
    members: usize,
    dtype: DType,
    layout: Interleave,
    is_packing: bool,
) -> Vec<u8> {
    let (length, size) = (plan.length, dtype.size());
    let mut moved = vec![0; bytes.len()];
    for block in 0..members {
        let mut p = 0;
        while p < length {
            let count = layout.run(p).min(length - p);
            let (by_member, placed) = (block * length + p, layout.locate(p, block));
            let (from, to) = if is_packing { (placed, by_member) } else { (by_member, placed) };
            let (from, to, count_bytes) = (from * size, to * size, count * size);
            moved[to..to + count_bytes].copy_from_slice(&bytes[from..from + count_bytes]);
            p += count;
        }
    }
    moved
}

/// Reduces blocks of `length` elements, one of each member, in the order of the members.
pub(crate) fn reduce(
    blocks: &TensorData,
    length: usize,
    op: ReduceOp,
    shape: Vec<usize>,
) -> TensorData {
    match blocks.dtype() {
        DType::F32 => reduce_as::<f32>(blocks, length, op, shape),
        DType::F64 => reduce_as::<f64>(blocks, length, op, shape),
        DType::BF16 => reduce_as::<bf16>(blocks, length, op, shape),
        DType::F16 => reduce_as::<f16>(blocks, length, op, shape),
        DType::I32 => reduce_as::<i32>(blocks, length, op, shape),
        DType::I64 => reduce_as::<i64>(blocks, length, op, shape),
        _ => unreachable!("other element types are refused before they come here"),
    }
}

fn reduce_as<L: Lane + Element>(
    blocks: &TensorData,
    length: usize,
    op: ReduceOp,
    shape: Vec<usize>,
) -> TensorData {
    let values = blocks.as_slice::<L>().expect("received as elements of this type");
    let members = values.len().checked_div(length).unwrap_or(0);
    let mut result: Vec<L> = Vec::with_capacity(length);
    let mut accumulator = [L::Wide::default(); BLOCK];
    for begin in (0..length).step_by(BLOCK) {
        let count = BLOCK.min(length - begin);
        let acc = &mut accumulator[..count];
        start(acc, &values[begin..begin + count]);
        for member in 1..members {
            let begin = member * length + begin;
            fold(acc, &values[begin..begin + count], op);
        }
        finish(acc, members, op);
        result.extend(acc.iter().map(|wide| L::narrow(*wide)));
    }
    TensorData::new(result, shape)
}
