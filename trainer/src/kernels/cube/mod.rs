//! What the kernels for `CubeCL` devices have in common: the width of their loads, the size of their launches, sums over the
//! units of a cube.
//!
//! Each operation has its kernels in a file `cube.rs` beside its other implementations. They are plain functions of tensors
//! outside the fusion queue and outside the tape, written once for CUDA, Vulkan and Metal. They read `f32`, `f16` or `bf16`,
//! compute in `f32` and round once. None reads or writes host memory, and none adds atomically: a result is bitwise
//! repeatable on one device.

mod reduce;
#[cfg(test)]
pub(crate) mod tests;

use burn::backend::TensorMetadata;
use burn::backend::cubecl::dtype_to_storage_type;
use burn::tensor::{DType, Int, Shape, Tensor};
use burn_cubecl::ops::numeric::{empty_device_contiguous_dtype, full_device_dtype};
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::Client;
use cubecl::ir::ElemType;
use cubecl::ir::features::Plane;
use cubecl::prelude::*;
use cubecl::server::CubeCountSelection;

pub(crate) use burn_cubecl::kernel::into_contiguous as contiguous;
pub(crate) use reduce::{Highest, Sum, combine};

use crate::backend::{Erased, Settled, resolve, resolve_int, shaped};

/// Bytes of the widest load.
const LOAD: usize = 16;

/// Units that a kernel gets in all, where each element is computed on its own.
const ELEMENTWISE: u32 = 256;

/// The units of a cube, which reduce together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Team {
    /// A power of two.
    pub(crate) units: u32,
    /// Units of a plane, where planes can reduce and all have one size; zero elsewhere.
    pub(crate) plane: u32,
}

impl Team {
    /// Returns a team for `work` items, of `most` units at most.
    pub(crate) fn new(client: &Client, work: usize, most: u32) -> Self {
        let properties = client.properties();
        let hardware = &properties.hardware;
        let (least, largest) = (hardware.plane_size_min, hardware.plane_size_max);
        let limit = most.min(hardware.max_units_per_cube).min(hardware.max_cube_dim.0);
        let wanted = u32::try_from(work).unwrap_or(limit).min(limit).max(largest).max(1);
        let units = if wanted.is_power_of_two() { wanted } else { wanted.next_power_of_two() };
        let units = if units > limit { units / 2 } else { units };
        let reduces = properties.features.plane.contains(Plane::Ops)
            && least == largest
            && largest > 1
            && units.is_multiple_of(largest);
        Self { units, plane: if reduces { largest } else { 0 } }
    }

    pub(crate) fn dim(self) -> CubeDim {
        CubeDim::new_1d(self.units)
    }
}

/// Returns the number of elements of a vector: the narrowest type fills a load where `len` is a multiple of that.
pub(crate) fn vector_size(len: usize, dtypes: &[DType]) -> usize {
    let narrowest = dtypes.iter().map(DType::size).min().unwrap_or(LOAD);
    let mut size = LOAD / narrowest;
    while !len.is_multiple_of(size) {
        size /= 2;
    }
    size
}

/// Runs what is queued for a tensor of a `CubeCL` device, and returns it.
///
/// # Panics
///
/// If the tensor lives elsewhere, which the choice of an operation by its device excludes.
pub(crate) fn opened(tensor: Erased) -> CubeTensor {
    match resolve(tensor.inner()) {
        Settled::Cube(tensor) => tensor,
        Settled::Other(_) => {
            unreachable!("an operation of a device was given a tensor of the host")
        }
    }
}

/// Runs what is queued for integers of a `CubeCL` device, and returns them.
pub(crate) fn opened_integers<const D: usize>(tensor: Tensor<D, Int>) -> CubeTensor {
    resolve_int(tensor.inner())
}

/// Enters a tensor into the queue of the calling thread.
pub(crate) fn closed(tensor: CubeTensor) -> Erased {
    Settled::Cube(tensor).adopt()
}

/// Returns at least `count` cubes, within what a device takes per axis.
pub(crate) fn cubes(client: &Client, count: usize) -> CubeCount {
    CubeCountSelection::new(client, count as u32).cube_count()
}

/// Returns cubes and units for `count` items that are computed on their own; at least as many units as items.
pub(crate) fn elementwise(client: &Client, count: usize) -> (CubeCount, CubeDim) {
    let limit = client.properties().hardware.max_units_per_cube;
    let units = ELEMENTWISE.min(limit);
    (cubes(client, count.div_ceil(units as usize)), CubeDim::new_1d(units))
}

/// Returns the rows of a tensor and their length.
pub(crate) fn matrix_dims(tensor: &CubeTensor) -> (usize, usize) {
    let shape = tensor.shape();
    let (rows, columns) = shape.split_at(shape.num_dims() - 1);
    (rows.iter().product(), columns[0])
}

/// Returns the element type as kernels name it.
pub(crate) fn elem(dtype: DType) -> ElemType {
    dtype_to_storage_type(dtype)
}

/// Returns an unwritten tensor on the device of another.
pub(crate) fn empty(like: &CubeTensor, shape: impl Into<Shape>, dtype: DType) -> CubeTensor {
    empty_device_contiguous_dtype(like.client.clone(), like.device.clone(), shape.into(), dtype)
}

/// Returns the number type that indexes every element of the tensors.
pub(crate) fn address_type(tensors: &[&CubeTensor]) -> AddressType {
    tensors.iter().map(|tensor| tensor.required_address_type()).max().unwrap_or_default()
}

/// Returns the tensor that takes a result of the type and shape of `input`, and the kernel's argument for it: the input's
/// own buffer where nobody else holds it. `position` is that of the input among the kernel's buffers.
pub(crate) fn over(input: &CubeTensor, position: usize) -> (CubeTensor, BufferArg) {
    if input.can_mut() {
        let len = input.shape().num_elements();
        return (input.clone(), BufferArg::alias(position, len));
    }
    let output = empty(input, input.shape(), input.dtype);
    (output.clone(), output.into_buffer_arg())
}

/// Returns a tensor of zeros on the device of another, without gaps between its rows.
pub(crate) fn zeros(like: &CubeTensor, shape: impl Into<Shape>, dtype: DType) -> CubeTensor {
    let (client, device, shape) = (like.client.clone(), like.device.clone(), shape.into());
    let zero = InputScalar::new(0.0, elem(dtype));
    // Rows of a matrix may be padded where the device chooses the layout; one row has no gaps.
    let row = Shape::new([shape.num_elements()]);
    let row = full_device_dtype(client, row, device, zero, dtype);
    shaped(row, shape)
}
