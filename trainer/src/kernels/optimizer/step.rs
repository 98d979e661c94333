//! Fused optimizer steps.

use burn::tensor::Tensor;
use rayon::prelude::*;

use super::hyper::{AdamHyper, SgdHyper};
use super::{is_empty, reference};
#[cfg(feature = "cube")]
use crate::backend::Erased;
#[cfg(feature = "cube")]
use crate::kernels::cube::{closed, opened};
use crate::kernels::simd::vectorized;
use crate::kernels::{dispatch, flex};

/// Elements of one task.
const TASK: usize = 16 * 1024;

/// Takes one Adam or `AdamW` step; returns the parameter and both moments.
///
/// # Shapes
///
/// All tensors have one length.
///
/// # References
///
/// Decoupled Weight Decay Regularization, arXiv:1711.05101, algorithm 2.
pub fn adamw_step(
    param: Tensor<1>,
    grad: Tensor<1>,
    exp_avg: Tensor<1>,
    exp_avg_sq: Tensor<1>,
    hyper: &AdamHyper,
) -> (Tensor<1>, Tensor<1>, Tensor<1>) {
    if is_empty(&param) {
        return (param, exp_avg, exp_avg_sq);
    }
    let dtypes = [param.dtype(), grad.dtype(), exp_avg.dtype(), exp_avg_sq.dtype()];
    #[cfg(feature = "cube")]
    if exp_avg.dtype() == exp_avg_sq.dtype() && dispatch::has_cube_kernel(&param.device(), &dtypes)
    {
        let [param, grad, exp_avg, exp_avg_sq] =
            [param, grad, exp_avg, exp_avg_sq].map(|tensor| opened(Erased::new(tensor)));
        let factors = AdamFactors::new(hyper);
        let (param, mean, square) =
            super::cube::adamw_step(param, grad, exp_avg, exp_avg_sq, factors);
        let wrap = |tensor| closed(tensor).into_tensor();
        return (wrap(param), wrap(mean), wrap(square));
    }
    if !dispatch::has_kernel(&param.device(), &dtypes) {
        return reference::adamw(param, grad, exp_avg, exp_avg_sq, hyper);
    }
    let [mut param, grad, mut exp_avg, mut exp_avg_sq] = [param, grad, exp_avg, exp_avg_sq]
        .map(|tensor| flex::contiguous(flex::from_tensor(tensor)));
    let factors = AdamFactors::new(hyper);
    param
        .storage_mut::<f32>()
        .par_chunks_mut(TASK)
        .zip(grad.storage::<f32>().par_chunks(TASK))
        .zip(exp_avg.storage_mut::<f32>().par_chunks_mut(TASK))
        .zip(exp_avg_sq.storage_mut::<f32>().par_chunks_mut(TASK))
        .for_each(|(((param, grad), exp_avg), exp_avg_sq)| {
            factors.update(param, grad, exp_avg, exp_avg_sq);
        });
    (flex::into_tensor(param), flex::into_tensor(exp_avg), flex::into_tensor(exp_avg_sq))
}

/// Takes one step of stochastic gradient descent; returns the parameter and the momentum buffer, if momentum is on.
///
/// The first step with momentum is given no buffer and starts it with the gradient.
///
/// # Shapes
///
/// All tensors have one length.
pub fn sgd_step(
    param: Tensor<1>,
    grad: Tensor<1>,
    momentum_buffer: Option<Tensor<1>>,
    hyper: &SgdHyper,
) -> (Tensor<1>, Option<Tensor<1>>) {
    if is_empty(&param) {
        let buffer = (hyper.momentum != 0.0).then(|| momentum_buffer.unwrap_or(grad));
        return (param, buffer);
    }
    if !dispatch::has_kernel(&param.device(), &[param.dtype(), grad.dtype()]) {
        return reference::sgd(param, grad, momentum_buffer, hyper);
    }
    let mut param = flex::contiguous(flex::from_tensor(param));
    // The gradient's buffer becomes the first momentum buffer.
    let mut grad = flex::contiguous(flex::from_tensor(grad));
    let buffer = momentum_buffer
        .filter(|_| hyper.momentum != 0.0)
        .map(|buffer| flex::contiguous(flex::from_tensor(buffer)));
    let Some(mut buffer) = buffer else {
        let tasks = param.storage_mut::<f32>().par_chunks_mut(TASK);
        tasks
            .zip(grad.storage_mut::<f32>().par_chunks_mut(TASK))
            .for_each(|(param, grad)| sgd_first(param, grad, hyper));
        let buffer = (hyper.momentum != 0.0).then(|| flex::into_tensor(grad));
        return (flex::into_tensor(param), buffer);
    };
    let tasks = param.storage_mut::<f32>().par_chunks_mut(TASK);
    tasks
        .zip(grad.storage::<f32>().par_chunks(TASK))
        .zip(buffer.storage_mut::<f32>().par_chunks_mut(TASK))
        .for_each(|((param, grad), buffer)| sgd_update(param, grad, buffer, hyper));
    (flex::into_tensor(param), Some(flex::into_tensor(buffer)))
}

/// The constants of one Adam step, rounded once.
#[derive(Debug, Clone, Copy)]
pub(super) struct AdamFactors {
    pub(super) beta1: f32,
    pub(super) beta2: f32,
    pub(super) gain1: f32,
    pub(super) gain2: f32,
    pub(super) shrink: f32,
    pub(super) decay: f32,
    pub(super) root_correction: f32,
    pub(super) eps: f32,
    pub(super) rate: f32,
    pub(super) grad_scale: f32,
}

impl AdamFactors {
    pub(super) fn new(hyper: &AdamHyper) -> Self {
        let [correction1, correction2] = hyper.bias_corrections();
        let (shrink, decay) = if hyper.decoupled {
            (1.0 - hyper.lr * hyper.weight_decay, 0.0)
        } else {
            (1.0, hyper.weight_decay)
        };
        Self {
            beta1: hyper.beta1 as f32,
            beta2: hyper.beta2 as f32,
            gain1: (1.0 - hyper.beta1) as f32,
            gain2: (1.0 - hyper.beta2) as f32,
            shrink: shrink as f32,
            decay: decay as f32,
            root_correction: (1.0 / correction2.sqrt()) as f32,
            eps: hyper.eps as f32,
            rate: (hyper.lr / correction1) as f32,
            grad_scale: hyper.grad_scale as f32,
        }
    }

    fn update(self, param: &mut [f32], grad: &[f32], exp_avg: &mut [f32], exp_avg_sq: &mut [f32]) {
        vectorized!({
            let moments = exp_avg.iter_mut().zip(exp_avg_sq.iter_mut());
            for ((param, grad), (mean, square)) in param.iter_mut().zip(grad).zip(moments) {
                let gradient = self.decay.mul_add(*param, grad * self.grad_scale);
                *mean = self.beta1.mul_add(*mean, self.gain1 * gradient);
                *square = self.beta2.mul_add(*square, self.gain2 * gradient * gradient);
                let denominator = square.sqrt().mul_add(self.root_correction, self.eps);
                *param = *param * self.shrink - self.rate * *mean / denominator;
            }
        });
    }
}

/// A step without an earlier momentum; leaves the effective gradient, which starts the momentum, in `grad`.
fn sgd_first(param: &mut [f32], grad: &mut [f32], hyper: &SgdHyper) {
    let momentum = if hyper.nesterov { hyper.momentum } else { 0.0 };
    let rate = (hyper.lr * (1.0 + momentum)) as f32;
    let (scale, decay) = (hyper.grad_scale as f32, hyper.weight_decay as f32);
    vectorized!(for (param, grad) in param.iter_mut().zip(grad.iter_mut()) {
        *grad = decay.mul_add(*param, *grad * scale);
        *param -= rate * *grad;
    });
}

fn sgd_update(param: &mut [f32], grad: &[f32], buffer: &mut [f32], hyper: &SgdHyper) {
    let (scale, decay) = (hyper.grad_scale as f32, hyper.weight_decay as f32);
    let (momentum, gain) = (hyper.momentum as f32, (1.0 - hyper.dampening) as f32);
    let rate = hyper.lr as f32;
    let (along_grad, along_buffer) = if hyper.nesterov { (1.0, momentum) } else { (0.0, 1.0) };
    vectorized!(for ((param, grad), buffer) in param.iter_mut().zip(grad).zip(buffer.iter_mut()) {
        let gradient = decay.mul_add(*param, grad * scale);
        *buffer = momentum.mul_add(*buffer, gain * gradient);
        *param -= rate * (along_grad * gradient + along_buffer * *buffer);
    });
}
