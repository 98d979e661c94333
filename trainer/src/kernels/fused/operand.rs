//! The two kinds of value that kernels compute on.

use std::fmt;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Flex};
use burn::tensor::{DType, Device, Shape};
use burn_flex::FlexTensor;

use crate::backend::{Bridge, Erased};
use crate::kernels::saved::{Keep, Kept};
use crate::kernels::{flex, half_precision};

/// A value of a kernel on backend `B`.
pub(crate) trait Operand<B: Backend>: Keep + Clone + fmt::Debug + Send + 'static {
    /// Takes a primitive of the backend in the form in which kernels want it.
    fn open(primitive: FloatTensor<B>) -> Self;

    /// Returns a result of a kernel as a primitive of an element type.
    fn close(self, dtype: DType) -> FloatTensor<B>;

    /// Returns the element type.
    fn element_type(&self) -> DType;

    /// Returns zeros.
    fn blank(shape: Shape, dtype: DType, device: &Device) -> Self;

    /// Lists the buffer of a primitive that is kept.
    fn keep(primitive: &FloatTensor<B>, kept: &mut Kept);

    /// Returns the device of a primitive.
    fn device(primitive: &FloatTensor<B>) -> Device;
}

/// Kernels of the CPU compute in `f32`: half-precision inputs are widened and results narrowed.
impl Operand<Flex> for FlexTensor {
    fn open(primitive: Self) -> Self {
        half_precision::widen(primitive)
    }

    fn close(self, dtype: DType) -> Self {
        half_precision::narrow(self, dtype)
    }

    fn element_type(&self) -> DType {
        self.dtype()
    }

    fn blank(shape: Shape, _: DType, _: &Device) -> Self {
        flex::tensor(vec![0.0; shape.num_elements()], shape)
    }

    fn keep(primitive: &Self, kept: &mut Kept) {
        primitive.list(kept);
    }

    fn device(_: &Self) -> Device {
        Device::flex()
    }
}

/// Kernels of tensors choose their precision themselves.
impl<B: Bridge> Operand<B> for Erased {
    fn open(primitive: FloatTensor<B>) -> Self {
        B::up(primitive)
    }

    fn close(self, dtype: DType) -> FloatTensor<B> {
        B::down(self.cast(dtype))
    }

    fn element_type(&self) -> DType {
        self.dtype()
    }

    fn blank(shape: Shape, dtype: DType, device: &Device) -> Self {
        Self::zeros(shape.to_vec(), dtype, device)
    }

    fn keep(primitive: &FloatTensor<B>, kept: &mut Kept) {
        B::up(primitive.clone()).list(kept);
    }

    fn device(primitive: &FloatTensor<B>) -> Device {
        B::up(primitive.clone()).device()
    }
}

impl Keep for Erased {
    /// Lists what lies in host memory; what a device keeps is not followed.
    fn list(&self, kept: &mut Kept) {
        kept.add_buffer(self.host_buffer());
    }
}
