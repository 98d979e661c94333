//! Host tensors made without a second copy: allocated with the alignment of their elements, filled
//! in place.

use burn::tensor::{Bytes, DType, DataError, TensorData};
use bytemuck::Pod;

use super::block::num_elements;

/// Makes a tensor and lets `fill` write its bytes, which start as zeros.
pub(crate) fn tensor(
    shape: &[usize],
    dtype: DType,
    fill: impl FnOnce(&mut [u8]),
) -> Result<TensorData, DataError> {
    let len = num_elements(shape).unwrap_or(0);
    // Bytes handed over without an alignment are copied to get one.
    let bytes = match dtype.size() {
        1 => filled::<u8>(len, fill),
        2 => filled::<u16>(len, fill),
        4 => filled::<u32>(len, fill),
        _ => filled::<u64>(len, fill),
    };
    TensorData::try_from_bytes(bytes, shape.to_vec(), dtype)
}

fn filled<E: Pod + Send + Sync>(len: usize, fill: impl FnOnce(&mut [u8])) -> Bytes {
    let mut elements = vec![E::zeroed(); len];
    fill(bytemuck::cast_slice_mut(&mut elements));
    Bytes::from_elems(elements)
}
