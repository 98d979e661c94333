//! Optimizer passes on a `CubeCL` device: one AdamW step in one launch, sums of squares, accumulation.
#![expect(unsafe_code, reason = "a launch without bounds checks answers for its indices itself")]
#![expect(
    clippy::used_underscore_binding,
    reason = "the macro of a kernel names its element types"
)]

pub(crate) mod reduce;
#[cfg(test)]
mod tests;

use burn::backend::TensorMetadata;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::step::AdamFactors;
use crate::kernels::cube::{self, contiguous, elem, vector_size};

/// Takes one Adam or AdamW step in one launch; returns the parameter and both moments, over their buffers where nobody else
/// holds them.
///
/// # Shapes
///
/// All tensors have one length. Both moments have one type; parameter and gradient may have others.
///
/// # References
///
/// Decoupled Weight Decay Regularization, arXiv:1711.05101, algorithm 2.
pub(crate) fn adamw_step(
    param: CubeTensor,
    grad: CubeTensor,
    exp_avg: CubeTensor,
    exp_avg_sq: CubeTensor,
    factors: AdamFactors,
) -> (CubeTensor, CubeTensor, CubeTensor) {
    let [param, grad, exp_avg, exp_avg_sq] = [param, grad, exp_avg, exp_avg_sq].map(contiguous);
    let len = param.shape().num_elements();
    if len == 0 {
        return (param, exp_avg, exp_avg_sq);
    }
    let client = param.client.clone();
    let dtypes = [param.dtype, grad.dtype, exp_avg.dtype];
    let size = vector_size(len, &dtypes);
    let (count, dim) = cube::elementwise(&client, len / size);
    let address = cube::address_type(&[&param]);
    let (new_param, param_arg) = cube::over(&param, 1);
    let (new_avg, avg_arg) = cube::over(&exp_avg, 2);
    let (new_avg_sq, avg_sq_arg) = cube::over(&exp_avg_sq, 3);
    // SAFETY: units past the vectors return at once.
    unsafe {
        adamw_kernel::launch_unchecked(
            &client,
            count,
            dim,
            address,
            size,
            grad.into_buffer_arg(),
            param.into_buffer_arg(),
            exp_avg.into_buffer_arg(),
            exp_avg_sq.into_buffer_arg(),
            param_arg,
            avg_arg,
            avg_sq_arg,
            FactorsLaunch::new(
                factors.beta1,
                factors.beta2,
                factors.gain1,
                factors.gain2,
                factors.shrink,
                factors.decay,
                factors.root_correction,
                factors.eps,
                factors.rate,
                factors.grad_scale,
            ),
            len / size,
            dtypes.map(elem),
        );
    }
    (new_param, new_avg, new_avg_sq)
}

/// The constants of a step, as [`AdamFactors`] has them.
#[derive(CubeType, CubeLaunch)]
struct Factors {
    beta1: f32,
    beta2: f32,
    gain1: f32,
    gain2: f32,
    shrink: f32,
    decay: f32,
    root_correction: f32,
    eps: f32,
    rate: f32,
    grad_scale: f32,
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn adamw_kernel<P: Float, G: Float, M: Float, N: Size>(
    grad: &[Vector<G, N>],
    param: &[Vector<P, N>],
    exp_avg: &[Vector<M, N>],
    exp_avg_sq: &[Vector<M, N>],
    new_param: &mut [Vector<P, N>],
    new_avg: &mut [Vector<M, N>],
    new_avg_sq: &mut [Vector<M, N>],
    factors: &Factors,
    len: usize,
    #[define(P, G, M)] _dtypes: [ElemType; 3],
) {
    let i = ABSOLUTE_POS;
    if i >= len {
        terminate!();
    }
    let value = Vector::<f32, N>::cast_from(param[i]);
    let scaled = Vector::<f32, N>::cast_from(grad[i]) * Vector::new(factors.grad_scale);
    let gradient = fma(Vector::new(factors.decay), value, scaled);
    let mean = fma(
        Vector::new(factors.beta1),
        Vector::<f32, N>::cast_from(exp_avg[i]),
        Vector::new(factors.gain1) * gradient,
    );
    let square = fma(
        Vector::new(factors.beta2),
        Vector::<f32, N>::cast_from(exp_avg_sq[i]),
        Vector::new(factors.gain2) * gradient * gradient,
    );
    let denominator =
        fma(square.sqrt(), Vector::new(factors.root_correction), Vector::new(factors.eps));
    let updated =
        value * Vector::new(factors.shrink) - Vector::new(factors.rate) * mean / denominator;
    new_param[i] = Vector::cast_from(updated);
    new_avg[i] = Vector::cast_from(mean);
    new_avg_sq[i] = Vector::cast_from(square);
}
