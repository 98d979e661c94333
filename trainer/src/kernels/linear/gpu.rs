//! The linear layer on an NVIDIA GPU: three products by cuBLASLt.

use burn::tensor::{DType, Tensor};

use crate::backend::{Erased, shaped};
use crate::kernels::cube::{closed, opened};
use crate::kernels::cuda::matrix::Matrix;
use crate::kernels::fused::{Kernel, apply};

/// Multiplies and adds as the reference does.
pub(super) fn linear<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
) -> Tensor<D> {
    let kernel = GpuLinear { weight: weight.dtype() };
    let (x, weight) = (Erased::new(x), Erased::new(weight));
    match bias {
        Some(bias) => apply([x, weight, Erased::new(bias)], kernel),
        None => apply([x, weight], kernel),
    }
}

#[derive(Debug, Clone, Copy)]
struct GpuLinear {
    /// Element type of the weight, which its gradient is summed in.
    weight: DType,
}

/// Reads a tensor as a matrix over its last dimension, in an element type.
fn matrix(tensor: Erased, dtype: DType) -> Matrix {
    Matrix::new(opened(tensor.cast(dtype)))
}

/// Returns the shape of rows of another length.
fn rows_of(shape: &[usize], length: usize) -> Vec<usize> {
    let mut shape = shape.to_vec();
    *shape.last_mut().expect("a linear layer's input has a last dimension") = length;
    shape
}

impl<const N: usize> Kernel<N, Erased> for GpuLinear {
    type Saved = ();

    fn reads(&self, needs: [bool; N]) -> [bool; N] {
        super::read_inputs(needs)
    }

    fn weights(&self) -> [bool; N] {
        std::array::from_fn(|i| i > 0)
    }

    fn forward(&self, inputs: [Erased; N], _needs: [bool; N]) -> (Erased, ()) {
        let mut inputs = inputs.into_iter();
        let x = inputs.next().expect("a linear layer has an input");
        let weight = inputs.next().expect("a linear layer has a weight");
        let (dtype, shape) = (x.dtype(), x.shape());
        let (x, weight) = (matrix(x, dtype), matrix(weight, dtype));
        let shape = rows_of(&shape, weight.columns());
        let y = match inputs.next() {
            Some(bias) => x.times_plus_row(&weight, dtype, opened(bias.cast(dtype))),
            None => x.times(&weight, dtype),
        };
        (closed(shaped(y, shape)), ())
    }

    fn backward(
        &self,
        inputs: [Option<Erased>; N],
        (): (),
        grad: Erased,
        needs: [bool; N],
    ) -> [Option<Erased>; N] {
        let (dtype, shape) = (grad.dtype(), grad.shape());
        let mut gradients = [const { None }; N];
        if N > 2 && needs[2] {
            gradients[2] = Some(column_sums(grad.clone()));
        }
        let grad = matrix(grad, dtype);
        let mut inputs = inputs.into_iter();
        let (x, weight) = (inputs.next().flatten(), inputs.next().flatten());
        if let Some(weight) = weight.filter(|_| needs[0]) {
            let weight = matrix(weight, dtype);
            let shape = rows_of(&shape, weight.rows());
            let dx = grad.times(&weight.transpose(), dtype);
            gradients[0] = Some(closed(shaped(dx, shape)));
        }
        if let Some(x) = x.filter(|_| needs[1]) {
            let dw = matrix(x, dtype).transpose().times(&grad, self.weight);
            gradients[1] = Some(closed(dw));
        }
        gradients
    }
}

/// Sums the rows over all dimensions but the last, in `f32`.
fn column_sums(grad: Erased) -> Erased {
    let shape = grad.shape();
    let columns = shape.last().copied().unwrap_or(1);
    let rows = shape.iter().product::<usize>().checked_div(columns).unwrap_or(0);
    let grad: Tensor<2> = grad.cast(DType::F32).reshape(vec![rows, columns]).into_tensor();
    Erased::new(grad.sum_dim(0)).reshape(vec![columns])
}
