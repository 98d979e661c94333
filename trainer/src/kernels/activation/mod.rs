//! Activations of the feed-forward layers: gated `SiLU` and exact GELU.

#[cfg(feature = "cube")]
mod cube;
#[cfg(feature = "cube")]
mod device;

use std::f64::consts::FRAC_1_SQRT_2;

use burn::tensor::{Tensor, activation};
use burn_flex::FlexTensor;
use rayon::prelude::*;

use crate::kernels::fused::{Kernel, apply1, apply2};
use crate::kernels::half_precision::widened;
use crate::kernels::simd::{self, vectorized};
use crate::kernels::{dispatch, flex};

/// Elements of one task of an elementwise pass: large enough to pay for a task, small enough for the second-level cache.
const TASK: usize = 16 * 1024;

/// Multiplies `up` by the `SiLU` of `gate`.
///
/// # Shapes
///
/// All three tensors have one shape.
///
/// # References
///
/// GLU Variants Improve Transformer, arXiv:2002.05202, equation 6.
pub fn swiglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    if dispatch::has_fused_kernel(&gate.device(), &[gate.dtype(), up.dtype()]) {
        assert_eq!(gate.dims(), up.dims(), "gate and up must have one shape");
        return apply2(gate, up, SwigluKernel);
    }
    #[cfg(feature = "cube")]
    if gate.dtype() == up.dtype() && dispatch::has_cube_kernel(&gate.device(), &[gate.dtype()]) {
        return device::swiglu(gate, up);
    }
    swiglu_reference(gate, up)
}

/// Applies GELU in its exact form, with the error function.
///
/// # References
///
/// Gaussian Error Linear Units, arXiv:1606.08415.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if dispatch::has_fused_kernel(&x.device(), &[x.dtype()]) {
        return apply1(x, GeluKernel);
    }
    #[cfg(feature = "cube")]
    if dispatch::has_cube_kernel(&x.device(), &[x.dtype()]) {
        return device::gelu(x);
    }
    gelu_reference(x)
}

fn swiglu_reference<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    let dtype = gate.dtype();
    (activation::silu(widened(gate)) * widened(up)).cast(dtype)
}

fn gelu_reference<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    // Burn's own `gelu` differentiates the tanh form on some backends; this chain is exact on all.
    let dtype = x.dtype();
    let x = widened(x);
    let cumulative = ((x.clone() * FRAC_1_SQRT_2).erf() + 1.0) * 0.5;
    (x * cumulative).cast(dtype)
}

#[derive(Debug, Clone, Copy)]
struct SwigluKernel;

impl Kernel<2> for SwigluKernel {
    type Saved = ();

    fn reads(&self, _needs: [bool; 2]) -> [bool; 2] {
        [true, true]
    }

    fn forward(&self, [gate, up]: [FlexTensor; 2], _needs: [bool; 2]) -> (FlexTensor, ()) {
        let (gate, up) = (flex::contiguous(gate), flex::contiguous(up));
        let (a, b) = (gate.storage::<f32>(), up.storage::<f32>());
        let mut y = flex::scratch(a.len());
        y.par_chunks_mut(TASK).zip(a.par_chunks(TASK)).zip(b.par_chunks(TASK)).for_each(
            |((y, gate), up)| {
                vectorized!(for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
                    *y = gate * simd::sigmoid(*gate) * up;
                });
            },
        );
        (flex::tensor(y, flex::dims(&gate)), ())
    }

    fn backward(
        &self,
        inputs: [Option<FlexTensor>; 2],
        (): (),
        grad: FlexTensor,
        _needs: [bool; 2],
    ) -> [Option<FlexTensor>; 2] {
        let [mut gate, up] = inputs.map(|t| flex::contiguous(t.expect("both inputs were kept")));
        let mut grad = flex::contiguous(grad);
        // The buffers of the gate and of the gradient become the two gradients, where nobody else holds them.
        gate.storage_mut::<f32>()
            .par_chunks_mut(TASK)
            .zip(grad.storage_mut::<f32>().par_chunks_mut(TASK))
            .zip(up.storage::<f32>().par_chunks(TASK))
            .for_each(|((gate, grad), up)| {
                vectorized!(
                    for ((gate, grad), up) in gate.iter_mut().zip(grad.iter_mut()).zip(up) {
                        let (x, g) = (*gate, *grad);
                        let sigmoid = simd::sigmoid(x);
                        *grad = g * x * sigmoid;
                        *gate = g * up * sigmoid * (x * (1.0 - sigmoid) + 1.0);
                    }
                );
            });
        [Some(gate), Some(grad)]
    }
}

#[derive(Debug, Clone, Copy)]
struct GeluKernel;

impl Kernel<1> for GeluKernel {
    type Saved = ();

    fn reads(&self, _needs: [bool; 1]) -> [bool; 1] {
        [true]
    }

    fn forward(&self, [x]: [FlexTensor; 1], _needs: [bool; 1]) -> (FlexTensor, ()) {
        let x = flex::contiguous(x);
        let values = x.storage::<f32>();
        let mut y = flex::scratch(values.len());
        y.par_chunks_mut(TASK).zip(values.par_chunks(TASK)).for_each(|(y, x)| {
            vectorized!(for (y, x) in y.iter_mut().zip(x) {
                *y = x * cumulative(*x);
            });
        });
        (flex::tensor(y, flex::dims(&x)), ())
    }

    fn backward(
        &self,
        [x]: [Option<FlexTensor>; 1],
        (): (),
        grad: FlexTensor,
        _needs: [bool; 1],
    ) -> [Option<FlexTensor>; 1] {
        /// Density of the normal distribution at zero.
        const PEAK: f32 = 0.398_942_3;
        let x = flex::contiguous(x.expect("the input was kept"));
        let mut grad = flex::contiguous(grad);
        grad.storage_mut::<f32>()
            .par_chunks_mut(TASK)
            .zip(x.storage::<f32>().par_chunks(TASK))
            .for_each(|(grad, x)| {
                vectorized!(for (grad, &x) in grad.iter_mut().zip(x) {
                    *grad *= cumulative(x) + x * PEAK * simd::exp(-0.5 * x * x);
                });
            });
        [Some(grad)]
    }
}

/// The normal distribution's cumulative function.
#[inline(always)]
fn cumulative(x: f32) -> f32 {
    0.5 * (1.0 + simd::erf(x * std::f32::consts::FRAC_1_SQRT_2))
}
