//! Sums over gradients: the global norm's part, and accumulation over micro-batches.

use burn::tensor::{DType, Tensor};
use rayon::prelude::*;

use crate::kernels::simd::{self, vectorized};
use crate::kernels::{dispatch, flex};

/// Elements summed in `f32` lanes before they join the `f64` sum: fixed, so that the sum does not depend on the threads.
const BLOCK: usize = 4 * 1024;

/// Returns the sum of squares, accumulated in `f64` on the CPU and in `f32` elsewhere.
pub fn sum_of_squares(grad: &Tensor<1>) -> f64 {
    if dispatch::has_kernel(&grad.device(), &[grad.dtype()]) {
        let grad = flex::contiguous(flex::from_tensor(grad.clone()));
        let partial: Vec<f64> = grad
            .storage::<f32>()
            .par_chunks(BLOCK)
            .with_min_len(4)
            .map(|block| f64::from(vectorized!(simd::dot(block, block))))
            .collect();
        return partial.iter().sum();
    }
    sums_of_squares(&[grad])[0]
}

/// Returns [`sum_of_squares`] of each tensor. A device is asked for all of them at once.
pub fn sums_of_squares(grads: &[&Tensor<1>]) -> Vec<f64> {
    let Some(first) = grads.first() else { return Vec::new() };
    if dispatch::has_kernel(&first.device(), &[first.dtype()]) {
        return grads.iter().map(|grad| sum_of_squares(grad)).collect();
    }
    let square = |grad: &&Tensor<1>| {
        let wide = if grad.dtype().size() < DType::F32.size() { DType::F32 } else { grad.dtype() };
        let grad = (*grad).clone().cast(wide);
        (grad.clone() * grad).sum()
    };
    let squares = Tensor::cat(grads.iter().map(square).collect(), 0);
    squares.into_data().iter::<f64>().collect()
}

/// Adds a gradient to an accumulated one, in place where that is unshared.
///
/// # Shapes
///
/// Both tensors have one length.
pub fn accumulate(into: Tensor<1>, grad: Tensor<1>) -> Tensor<1> {
    if dispatch::has_kernel(&into.device(), &[into.dtype(), grad.dtype()]) {
        assert_eq!(into.dims(), grad.dims(), "accumulated gradients must have one length");
        let mut into = flex::contiguous(flex::from_tensor(into));
        let grad = flex::contiguous(flex::from_tensor(grad));
        let task = flex::rows_per_task(grad.layout().num_elements(), 1);
        into.storage_mut::<f32>()
            .par_chunks_mut(task)
            .zip(grad.storage::<f32>().par_chunks(task))
            .for_each(|(into, grad)| {
                vectorized!(for (into, grad) in into.iter_mut().zip(grad) {
                    *into += grad;
                });
            });
        return flex::into_tensor(into);
    }
    into + grad
}
