//! The linear layer: the product that dominates a transformer's step.

#[cfg(feature = "cuda")]
mod gpu;

use burn::tensor::Tensor;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::fused::{Kernel, apply2, apply3};
use super::half_precision::widened;
use super::simd::vectorized;
use super::{dispatch, flex, matmul};

/// Multiplies the last dimension of `x` by `weight` and adds `bias`.
///
/// # Shapes
///
/// `x` is `[.., in]`, `weight` is `[in, out]` as Burn stores it, `bias` is `[out]`; the result is `[.., out]`, in the
/// element type of `x`.
///
/// # Panics
///
/// When the dimensions do not agree.
pub fn linear<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
) -> Tensor<D> {
    let shape: [usize; D] = x.dims();
    assert_eq!(
        shape[D - 1],
        weight.dims()[0],
        "the input's last dimension must be the weight's first"
    );
    #[cfg(feature = "cuda")]
    if dispatch::has_products(&x.device(), &[x.dtype(), weight.dtype()]) {
        return gpu::linear(x, weight, bias);
    }
    if !dispatch::has_fused_kernel(&x.device(), &[x.dtype(), weight.dtype()]) {
        return reference(x, weight, bias);
    }
    match bias {
        Some(bias) => apply3(x, weight, bias, LinearKernel),
        None => apply2(x, weight, LinearKernel),
    }
}

/// Multiplies as [`linear`] does, with a result in `f32` whatever the operands are: what a loss needs of logits.
///
/// On the CPU the products of half-precision operands are not rounded in between; elsewhere they are, to the operands' type.
pub fn linear_f32<const D: usize>(x: Tensor<D>, weight: Tensor<2>) -> Tensor<D> {
    if dispatch::has_fused_kernel(&x.device(), &[x.dtype(), weight.dtype()]) {
        return linear(widened(x), weight, None);
    }
    widened(linear(x, weight, None))
}

fn reference<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
) -> Tensor<D> {
    let mut shape: [usize; D] = x.dims();
    let [inputs, outputs] = weight.dims();
    let rows = shape[..D - 1].iter().product::<usize>();
    let dtype = x.dtype();
    let mut y = x.reshape([rows, inputs]).matmul(weight.cast(dtype));
    if let Some(bias) = bias {
        y = y + bias.cast(dtype).unsqueeze::<2>();
    }
    shape[D - 1] = outputs;
    y.reshape(shape)
}

/// Says which inputs backward reads: the input serves the weight's gradient and the weight serves the input's.
fn read_inputs<const N: usize>(needs: [bool; N]) -> [bool; N] {
    std::array::from_fn(|i| match i {
        0 => needs[1],
        1 => needs[0],
        _ => false,
    })
}

/// Product by a weight, with a bias as third input.
#[derive(Debug, Clone, Copy)]
struct LinearKernel;

impl<const N: usize> Kernel<N> for LinearKernel {
    type Saved = ();

    fn reads(&self, needs: [bool; N]) -> [bool; N] {
        read_inputs(needs)
    }

    fn weights(&self) -> [bool; N] {
        std::array::from_fn(|i| i > 0)
    }

    fn forward(&self, inputs: [FlexTensor; N], _needs: [bool; N]) -> (FlexTensor, ()) {
        let mut inputs = inputs.into_iter();
        let x = flex::contiguous(inputs.next().expect("a linear layer has an input"));
        let weight = matmul::viewable(inputs.next().expect("a linear layer has a weight"));
        let bias = inputs.next().map(flex::contiguous);
        (forward(&x, &weight, bias.as_ref()), ())
    }

    fn backward(
        &self,
        inputs: [Option<FlexTensor>; N],
        (): (),
        grad: FlexTensor,
        needs: [bool; N],
    ) -> [Option<FlexTensor>; N] {
        let grad = flex::contiguous(grad);
        let mut inputs = inputs.into_iter();
        let x = inputs.next().flatten();
        let weight = inputs.next().flatten();
        let mut gradients = [const { None }; N];
        gradients[0] = weight.filter(|_| needs[0]).map(|weight| input_gradient(&grad, weight));
        gradients[1] = x.filter(|_| needs[1]).map(|x| weight_gradient(&grad, &flex::contiguous(x)));
        if N > 2 && needs[2] {
            gradients[2] = Some(column_sums(&grad));
        }
        gradients
    }
}

fn forward(x: &FlexTensor, weight: &FlexTensor, bias: Option<&FlexTensor>) -> FlexTensor {
    let (rows, inputs) = flex::matrix_dims(x);
    let weight = matmul::view(weight).expect("the weight was made viewable");
    let outputs = weight.ncols();
    let mut y = output(rows, outputs, bias);
    let x_view = matmul::rows(x.storage(), rows, inputs);
    let out = matmul::rows_mut(&mut y, rows, outputs);
    match bias {
        Some(_) => matmul::add_product(out, x_view, weight),
        None => matmul::product(out, x_view, weight),
    }
    let mut shape = flex::dims(x);
    *shape.last_mut().expect("an input has a last dimension") = outputs;
    flex::tensor(y, shape)
}

/// Returns a buffer for an output: the bias in every row, to which the product is added, or arbitrary contents.
pub(super) fn output(rows: usize, outputs: usize, bias: Option<&FlexTensor>) -> Vec<f32> {
    let mut y = flex::scratch(rows * outputs);
    if let Some(bias) = bias {
        let bias = bias.storage::<f32>();
        let task = outputs.max(1) * flex::rows_per_task(rows, outputs);
        y.par_chunks_mut(task).for_each(|chunk| {
            for row in chunk.chunks_exact_mut(outputs) {
                row.copy_from_slice(bias);
            }
        });
    }
    y
}

fn input_gradient(grad: &FlexTensor, weight: FlexTensor) -> FlexTensor {
    let weight = matmul::viewable(weight);
    let weight = matmul::view(&weight).expect("the weight was made viewable");
    let (rows, outputs) = flex::matrix_dims(grad);
    let inputs = weight.nrows();
    let mut dx = flex::scratch(rows * inputs);
    matmul::product(
        matmul::rows_mut(&mut dx, rows, inputs),
        matmul::rows(grad.storage(), rows, outputs),
        weight.transpose(),
    );
    let mut shape = flex::dims(grad);
    *shape.last_mut().expect("an output has a last dimension") = inputs;
    flex::tensor(dx, shape)
}

/// Returns the gradient of a weight; both tensors are contiguous.
pub(super) fn weight_gradient(grad: &FlexTensor, x: &FlexTensor) -> FlexTensor {
    let (rows, outputs) = flex::matrix_dims(grad);
    let (_, inputs) = flex::matrix_dims(x);
    let mut dw = flex::scratch(inputs * outputs);
    matmul::product(
        matmul::rows_mut(&mut dw, inputs, outputs),
        matmul::rows(x.storage(), rows, inputs).transpose(),
        matmul::rows(grad.storage(), rows, outputs),
    );
    flex::tensor(dw, [inputs, outputs])
}

/// Sums the rows of a contiguous matrix.
pub(crate) fn column_sums(grad: &FlexTensor) -> FlexTensor {
    let (rows, columns) = flex::matrix_dims(grad);
    let partial: Vec<Vec<f32>> = grad
        .storage::<f32>()
        .par_chunks(columns.max(1) * flex::rows_per_task(rows, columns))
        .map(|chunk| {
            let mut sums = vec![0.0; columns];
            vectorized!(for row in chunk.chunks_exact(columns) {
                for (sum, value) in sums.iter_mut().zip(row) {
                    *sum += value;
                }
            });
            sums
        })
        .collect();
    flex::tensor(flex::sum_vectors(partial, columns), [columns])
}
