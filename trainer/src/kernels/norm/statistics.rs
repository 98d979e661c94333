//! The precision of a norm's statistics.

use burn::tensor::{DType, Tensor};

/// Widens half-precision rows to `f32`, whose range and mantissa their squares need.
pub(super) fn widened<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    match x.dtype() {
        DType::F16 | DType::BF16 => x.cast(DType::F32),
        _ => x,
    }
}
