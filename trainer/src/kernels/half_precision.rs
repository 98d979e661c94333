//! Half precision: operations compute in `f32` and round once, on their way out.
//!
//! `bf16` keeps 8 bits of a number and `f16` ends at 65504, so sums, exponentials and statistics are never taken in them.
//! Around a Flex kernel, operands are widened and the result is narrowed; references widen what they accumulate.

use burn::tensor::{Bytes, DType, Tensor, bf16, f16};
use burn_flex::{FlexTensor, Layout};
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use super::flex;

/// Elements of one task.
const TASK: usize = 16 * 1024;

/// Tells whether numbers of this type have 16 bits.
pub(crate) fn is_half(dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::BF16)
}

/// Returns the type in which numbers of a type are summed.
pub(crate) fn wide(dtype: DType) -> DType {
    if is_half(dtype) { DType::F32 } else { dtype }
}

/// Widens a half-precision tensor to `f32`; leaves others as they are.
pub(crate) fn widened<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if is_half(x.dtype()) { x.cast(DType::F32) } else { x }
}

/// Widens a half-precision operand of a kernel to `f32`; leaves others as they are.
pub(crate) fn widen(tensor: FlexTensor) -> FlexTensor {
    match tensor.dtype() {
        DType::BF16 => convert(tensor, |from: &[bf16], to| from.convert_to_f32_slice(to)),
        DType::F16 => convert(tensor, |from: &[f16], to| from.convert_to_f32_slice(to)),
        _ => tensor,
    }
}

/// Rounds a result of a kernel to the nearest number of `dtype`, ties to even.
pub(crate) fn narrow(tensor: FlexTensor, dtype: DType) -> FlexTensor {
    match dtype {
        _ if tensor.dtype() == dtype => tensor,
        DType::BF16 => {
            convert(tensor, |from: &[f32], to: &mut [bf16]| to.convert_from_f32_slice(from))
        }
        DType::F16 => {
            convert(tensor, |from: &[f32], to: &mut [f16]| to.convert_from_f32_slice(from))
        }
        _ => unreachable!("kernels take `f32`, `bf16` and `f16`, not {dtype:?}"),
    }
}

fn convert<A, B>(tensor: FlexTensor, each: impl Fn(&[A], &mut [B]) + Send + Sync) -> FlexTensor
where
    A: burn::tensor::Element + bytemuck::Pod,
    B: burn::tensor::Element + bytemuck::Pod,
{
    let tensor = flex::contiguous(tensor);
    let from: &[A] = tensor.storage();
    let mut to = vec![B::zeroed(); from.len()];
    to.par_chunks_mut(TASK).zip(from.par_chunks(TASK)).for_each(|(to, from)| each(from, to));
    let layout = Layout::contiguous(tensor.layout().shape().clone());
    FlexTensor::new(Bytes::from_elems(to), layout, B::dtype())
}
