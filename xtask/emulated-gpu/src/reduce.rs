//! Sums and the like, in the order of the members and in the type of the elements.

use std::ffi::c_int;

use half::{bf16, f16};

/// Bytes of an element of `ncclDataType_t`.
pub(crate) fn size(kind: c_int) -> Option<usize> {
    Some(match kind {
        0 | 1 => 1,
        6 | 9 => 2,
        2 | 3 | 7 => 4,
        4 | 5 | 8 => 8,
        _ => return None,
    })
}

/// Whether `ncclRedOp_t` has this operation.
pub(crate) fn is_known(op: c_int) -> bool {
    (0..=4).contains(&op)
}

macro_rules! fold {
    ($type:ty, $op:expr, $blocks:expr, $add:expr, $multiply:expr, $divide:expr) => {{
        const BYTES: usize = size_of::<$type>();
        let elements = $blocks.first().map_or(0, |block| block.len() / BYTES);
        let read = |block: &Vec<u8>, place: usize| {
            let bytes = block[place * BYTES..][..BYTES].try_into();
            bytes.map_or(<$type>::default(), <$type>::from_le_bytes)
        };
        let fold = |place: usize| {
            let values = $blocks.iter().map(|block| read(block, place));
            let result = values.reduce(|a, b| match $op {
                1 => $multiply(a, b),
                2 => {
                    if a > b {
                        a
                    } else {
                        b
                    }
                }
                3 => {
                    if a < b {
                        a
                    } else {
                        b
                    }
                }
                _ => $add(a, b),
            });
            let result = result.unwrap_or_default();
            if $op == 4 { $divide(result, $blocks.len()) } else { result }
        };
        (0..elements).flat_map(|place| fold(place).to_le_bytes()).collect()
    }};
}

macro_rules! integers {
    ($type:ty, $op:expr, $blocks:expr) => {
        fold!(
            $type,
            $op,
            $blocks,
            |a: $type, b: $type| a.wrapping_add(b),
            |a: $type, b: $type| a.wrapping_mul(b),
            |a: $type, n: usize| a / n as $type
        )
    };
}

macro_rules! floats {
    ($type:ty, $op:expr, $blocks:expr, $from:expr) => {
        fold!(
            $type,
            $op,
            $blocks,
            |a: $type, b: $type| a + b,
            |a: $type, b: $type| a * b,
            |a: $type, n: usize| a / $from(n as f32)
        )
    };
}

/// Combines the blocks of all members.
pub(crate) fn reduce(kind: c_int, op: c_int, blocks: &[Vec<u8>]) -> Vec<u8> {
    match kind {
        0 => integers!(i8, op, blocks),
        1 => integers!(u8, op, blocks),
        2 => integers!(i32, op, blocks),
        3 => integers!(u32, op, blocks),
        4 => integers!(i64, op, blocks),
        5 => integers!(u64, op, blocks),
        6 => floats!(f16, op, blocks, f16::from_f32),
        7 => floats!(f32, op, blocks, |n: f32| n),
        8 => floats!(f64, op, blocks, f64::from),
        _ => floats!(bf16, op, blocks, bf16::from_f32),
    }
}
