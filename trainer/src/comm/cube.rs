//! In and out of the fusion queue of a `CubeCL` device.
//!
//! A fused tensor is a promise: its value is computed when the queue of its thread drains, in an
//! order that may differ between ranks. A collective must not be such a promise, or two ranks could
//! run two of them in different orders and wait for each other forever. So a tensor is settled when
//! the collective is called, on the calling thread, and its result enters the queue as a value that
//! is already there.

use burn::backend::StreamId;
use burn::backend::fusion::{FusionTensor, NoOp, get_client};
use burn::backend::ir::{BackendIr, InitOperationIr, OperationIr};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Cube, TensorMetadata};
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;

/// Runs what is queued for a tensor and returns its value. The device may still be computing it.
pub(super) fn settle(tensor: FloatTensor<Cube>) -> CubeTensor {
    let client = tensor.client.clone();
    client.resolve_tensor_float::<CubeBackend>(tensor)
}

/// Enters a value into the queue of the calling thread.
pub(super) fn adopt(tensor: CubeTensor) -> FloatTensor<Cube> {
    let client = get_client::<CubeBackend>(&tensor.device);
    let (shape, dtype) = (tensor.shape(), tensor.dtype());
    let handle = CubeBackend::float_tensor_handle(tensor);
    let init = InitOperationIr::create(shape, dtype, || client.register_tensor_handle(handle));
    let mut outputs: Vec<FusionTensor<_>> =
        client.register(StreamId::current(), OperationIr::Init(init), NoOp::<CubeBackend>::new());
    outputs.remove(0)
}
