//! Fresh buffers for results, filled before they are read.
#![expect(unsafe_code, reason = "filling a result that was not zeroed first saves a pass over it")]

use burn::tensor::{Bytes, DType, TensorData};

/// A buffer of the alignment of its elements, so that it can become a vector of them again.
#[derive(Debug)]
pub(crate) enum Storage {
    One(Vec<u8>),
    Two(Vec<u16>),
    Four(Vec<u32>),
    Eight(Vec<u64>),
}

impl Storage {
    /// Reserves memory for `count` elements of `size` bytes; it holds nothing yet.
    pub(crate) fn reserve(count: usize, size: usize) -> Self {
        match size {
            1 => Self::One(Vec::with_capacity(count)),
            2 => Self::Two(Vec::with_capacity(count)),
            4 => Self::Four(Vec::with_capacity(count)),
            8 => Self::Eight(Vec::with_capacity(count)),
            _ => unreachable!("element types have 1, 2, 4 or 8 bytes; quantized data is refused"),
        }
    }

    /// Returns the address of the first element.
    pub(crate) fn as_mut_ptr(&mut self) -> *mut u8 {
        match self {
            Self::One(vec) => vec.as_mut_ptr(),
            Self::Two(vec) => vec.as_mut_ptr().cast(),
            Self::Four(vec) => vec.as_mut_ptr().cast(),
            Self::Eight(vec) => vec.as_mut_ptr().cast(),
        }
    }

    /// Turns the filled buffer into a tensor.
    ///
    /// # Safety
    ///
    /// As many elements as `shape` has were written, and no other access to the buffer is left.
    pub(crate) unsafe fn finish(self, shape: Vec<usize>, dtype: DType) -> TensorData {
        fn filled<E: bytemuck::NoUninit + Send + Sync>(mut vec: Vec<E>, count: usize) -> Bytes {
            assert!(count <= vec.capacity(), "a result fits the memory reserved for it");
            // SAFETY: the caller of `finish` vouches for the elements; the capacity was checked.
            unsafe { vec.set_len(count) };
            Bytes::from_elems(vec)
        }
        let count = shape.iter().product();
        let bytes = match self {
            Self::One(vec) => filled(vec, count),
            Self::Two(vec) => filled(vec, count),
            Self::Four(vec) => filled(vec, count),
            Self::Eight(vec) => filled(vec, count),
        };
        TensorData::from_bytes(bytes, shape, dtype)
    }
}
