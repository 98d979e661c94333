//! Views on Flex storage: `f32` slices, fresh buffers, and how rows are split over threads.
#![expect(
    unsafe_code,
    reason = "a fresh buffer is handed out before it is written, to save a sweep over it"
)]

use burn::backend::{BackendTensor, DispatchTensorKind, Flex};
use burn::tensor::{Bytes, DType, Int, Shape, Tensor};
use burn_flex::{FlexTensor, Layout};
use rayon::prelude::*;

use super::simd::vectorized;

/// Fewest elements worth a task of their own: below this, handing work to another thread costs more than it saves.
const GRAIN: usize = 16 * 1024;

/// Returns a buffer of `len` elements with arbitrary contents; callers write every element before any is read.
#[expect(clippy::uninit_vec, reason = "filled by the caller, see SAFETY")]
pub(crate) fn scratch(len: usize) -> Vec<f32> {
    if cfg!(debug_assertions) {
        return vec![f32::NAN; len];
    }
    let mut buffer = Vec::with_capacity(len);
    // SAFETY: the capacity is `len`, `f32` has no invalid bit patterns and no destructor, and every caller overwrites the
    // whole buffer (debug builds fill it with NaN, so that a test sees an element that was not written).
    unsafe {
        buffer.set_len(len);
    }
    buffer
}

/// Wraps values as a tensor without copying them.
pub(crate) fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> FlexTensor {
    FlexTensor::new(Bytes::from_elems(values), Layout::contiguous(shape.into()), DType::F32)
}

/// Returns the tensor with its elements in row-major order and nothing else in its storage.
pub(crate) fn contiguous(tensor: FlexTensor) -> FlexTensor {
    let whole = tensor.is_contiguous()
        && tensor.layout().start_offset() == 0
        && tensor.bytes().len() == tensor.layout().num_elements() * tensor.dtype().size();
    if whole { tensor } else { tensor.to_contiguous() }
}

/// Returns the dimensions of a tensor.
pub(crate) fn dims(tensor: &FlexTensor) -> Vec<usize> {
    tensor.layout().shape().to_vec()
}

/// Returns rows and columns of a tensor read as a matrix over its last dimension.
pub(crate) fn matrix_dims(tensor: &FlexTensor) -> (usize, usize) {
    let shape = tensor.layout().shape();
    let columns = shape.last().copied().unwrap_or(1);
    (tensor.layout().num_elements().checked_div(columns).unwrap_or(0), columns)
}

/// Returns how many rows a task takes: an even share of the threads, but not less than is worth a task.
pub(crate) fn rows_per_task(rows: usize, columns: usize) -> usize {
    let share = rows.div_ceil(rayon::current_num_threads());
    share.max(GRAIN / columns.max(1)).max(1)
}

/// Returns how many rows a task of fixed size takes, for work whose order of summation must not depend on the threads.
pub(crate) fn rows_per_grain(columns: usize) -> usize {
    (GRAIN / columns.max(1)).max(1)
}

/// Adds vectors of one length, in their order.
pub(crate) fn sum_vectors(vectors: Vec<Vec<f32>>, len: usize) -> Vec<f32> {
    let mut vectors = vectors.into_iter();
    let Some(mut total) = vectors.next() else {
        return vec![0.0; len];
    };
    for vector in vectors {
        for (sum, value) in total.iter_mut().zip(vector) {
            *sum += value;
        }
    }
    total
}

/// Takes the Flex tensor out of a float tensor that lives on Flex, dropping its place in a tape.
pub(crate) fn from_tensor<const D: usize>(tensor: Tensor<D>) -> FlexTensor {
    let inner = match tensor.into_dispatch().kind {
        DispatchTensorKind::Autodiff(inner) => *inner,
        kind @ DispatchTensorKind::Flex(_) => kind,
        #[cfg(feature = "cube")]
        kind @ DispatchTensorKind::Cube(_) => kind,
    };
    match inner {
        DispatchTensorKind::Flex(BackendTensor::Float(values)) => values,
        DispatchTensorKind::Flex(other) => other.autodiff_inner(),
        DispatchTensorKind::Autodiff(_) => unreachable!("a tape does not hold another tape"),
        #[cfg(feature = "cube")]
        DispatchTensorKind::Cube(_) => unreachable!("kernels are chosen for Flex alone"),
    }
}

/// Wraps a Flex tensor for the user, outside autodiff.
pub(crate) fn into_tensor<const D: usize>(tensor: FlexTensor) -> Tensor<D> {
    Tensor::from_primitive::<Flex>(tensor)
}

/// Multiplies every element of a contiguous tensor by a factor, in place where the buffer is unshared.
pub(crate) fn scaled(mut tensor: FlexTensor, factor: f32) -> FlexTensor {
    if factor != 1.0 {
        tensor.storage_mut::<f32>().par_chunks_mut(GRAIN).for_each(|chunk| {
            vectorized!(for value in chunk.iter_mut() {
                *value *= factor;
            });
        });
    }
    tensor
}

/// Reads an integer tensor that lives on Flex as `i64` values in row-major order.
pub(crate) fn integers<const D: usize>(tensor: Tensor<D, Int>) -> Vec<i64> {
    let dispatch = tensor.into_dispatch();
    let DispatchTensorKind::Flex(BackendTensor::Int(values)) = dispatch.kind else {
        unreachable!("integer tensors of an operation on Flex live on Flex, outside autodiff")
    };
    let values = values.to_contiguous();
    match values.dtype() {
        DType::I64 => values.storage::<i64>().to_vec(),
        DType::I32 => values.storage::<i32>().iter().map(|&v| i64::from(v)).collect(),
        _ => values.into_data().iter::<i64>().collect(),
    }
}
