//! Plain matrix products, for operations that compute their own gradients.

use burn::tensor::{DType, Tensor};

#[cfg(feature = "cuda")]
use super::cube::{closed, opened};
#[cfg(feature = "cuda")]
use super::cuda::matrix::Matrix;
#[cfg(feature = "cuda")]
use super::dispatch;
#[cfg(feature = "cuda")]
use crate::backend::Erased;

/// Multiplies two matrices of one element type, outside autodiff; the result has the type `output`.
///
/// Where cuBLASLt multiplies, sums are rounded once, to that type; elsewhere first to the operands'.
pub(super) fn product(a: Tensor<2>, b: Tensor<2>, output: DType) -> Tensor<2> {
    #[cfg(feature = "cuda")]
    if dispatch::has_products(&a.device(), &[a.dtype(), b.dtype(), output]) {
        return closed(matrix(a).times(&matrix(b), output)).into_tensor();
    }
    a.matmul(b).cast(output)
}

/// Adds the product of two matrices of one element type to `sum`, in its place where nobody else holds it.
pub(super) fn add_product(sum: Tensor<2>, a: Tensor<2>, b: Tensor<2>) -> Tensor<2> {
    #[cfg(feature = "cuda")]
    if dispatch::has_products(&a.device(), &[a.dtype(), b.dtype(), sum.dtype()]) {
        let sum = opened(Erased::new(sum));
        let sum = if sum.can_mut() { sum } else { sum.copy() };
        return closed(matrix(a).add_to(&matrix(b), sum)).into_tensor();
    }
    let dtype = sum.dtype();
    sum + a.matmul(b).cast(dtype)
}

#[cfg(feature = "cuda")]
fn matrix(tensor: Tensor<2>) -> Matrix {
    Matrix::new(opened(Erased::new(tensor)))
}
