//! In and out of the fusion queue of a `CubeCL` device.
//!
//! A fused tensor is a promise: its value is computed when the queue of its thread drains, in an
//! order that may differ between ranks. A collective must not be such a promise, or two ranks could
//! run two of them in different orders and wait for each other forever. So a tensor is settled when
//! the collective is called, on the calling thread, and its result enters the queue as a value that
//! is already there.
//!
//! Kernels write into the buffer of an input where they hold the last handle of it. A kernel of
//! another thread that still waits in its queue does not hold one, so a buffer that several ranks
//! read must never come down to its last handle while one of them may have yet to read it.

use std::sync::{Mutex, PoisonError};

use burn::backend::StreamId;
use burn::backend::fusion::{FusionTensor, NoOp, get_client};
use burn::backend::ir::{BackendIr, InitOperationIr, OperationIr};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Cube, TensorMetadata};
use burn::tensor::{Int, Shape, Tensor};
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;

/// One more handle of every buffer that was handed over, by which it stays as it is. Each goes at a
/// later hand-over once it is the last: nobody can write to the buffer then, and the queues of
/// threads keep the memory that their kernels read.
static HANDED_OVER: Mutex<Vec<CubeTensor>> = Mutex::new(Vec::new());

/// Runs what is queued for a tensor and returns its value, to which nobody will write. The device
/// may still be computing it.
pub(crate) fn settle(tensor: FloatTensor<Cube>) -> CubeTensor {
    let tensor = resolve(tensor);
    // A buffer with other holders may be kept already, and two keepers would wait for each other.
    let tensor = if tensor.can_mut() { tensor } else { tensor.copy() };
    let mut kept = HANDED_OVER.lock().unwrap_or_else(PoisonError::into_inner);
    kept.retain(|kept| !kept.can_mut());
    kept.push(tensor.clone());
    tensor
}

/// Runs what is queued for a tensor and returns its value, for one who holds on to it as long as it is
/// read and shares it with no other thread.
pub(crate) fn resolve(tensor: FloatTensor<Cube>) -> CubeTensor {
    let client = tensor.client.clone();
    client.resolve_tensor_float::<CubeBackend>(tensor)
}

/// Runs what is queued for a tensor of integers and returns its value.
pub(crate) fn resolve_int<const D: usize>(tensor: Tensor<D, Int>) -> CubeTensor {
    let tensor =
        tensor.try_into_primitive::<Cube>().expect("the tensor lives on a device of `CubeCL`");
    let client = tensor.client.clone();
    client.resolve_tensor_int::<CubeBackend>(tensor)
}

/// Returns a contiguous value in another shape of as many elements.
pub(crate) fn shaped(tensor: CubeTensor, shape: impl Into<Shape>) -> CubeTensor {
    let CubeTensor { client, device, handle, dtype, .. } = tensor;
    CubeTensor::new_contiguous(client, device, shape.into(), handle, dtype)
}

/// Enters a value into the queue of the calling thread.
pub(crate) fn adopt(tensor: CubeTensor) -> FloatTensor<Cube> {
    let client = get_client::<CubeBackend>(&tensor.device);
    let (shape, dtype) = (tensor.shape(), tensor.dtype());
    let handle = CubeBackend::float_tensor_handle(tensor);
    let init = InitOperationIr::create(shape, dtype, || client.register_tensor_handle(handle));
    let mut outputs: Vec<FusionTensor<_>> =
        client.register(StreamId::current(), OperationIr::Init(init), NoOp::<CubeBackend>::new());
    outputs.remove(0)
}
