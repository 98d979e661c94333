//! Sums over gradients: the global norm's part, and accumulation over micro-batches.

use burn::tensor::{DType, Device, Tensor};
use rayon::prelude::*;

use super::is_empty;
#[cfg(feature = "cube")]
use crate::backend::Erased;
#[cfg(feature = "cube")]
use crate::kernels::cube::{closed, opened};
use crate::kernels::simd::{self, vectorized};
use crate::kernels::{dispatch, flex};

/// Elements summed in `f32` lanes before they join the `f64` sum: fixed, so that the sum does not depend on the threads.
const BLOCK: usize = 4 * 1024;

/// Returns the sum of squares, accumulated in `f64` on the CPU and in `f32` elsewhere.
pub fn sum_of_squares(grad: &Tensor<1>) -> f64 {
    if is_empty(grad) {
        return 0.0;
    }
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
    square(grad).into_data().iter::<f64>().sum()
}

/// Returns [`sum_of_squares`] of each tensor. A GPU is asked for all of its own at once.
pub fn sums_of_squares(grads: &[&Tensor<1>]) -> Vec<f64> {
    let (mut sums, mut rest) = (vec![0.0; grads.len()], Vec::new());
    for (index, grad) in grads.iter().enumerate().filter(|(_, grad)| !is_empty(grad)) {
        if grad.device() == Device::flex() {
            sums[index] = sum_of_squares(grad);
        } else {
            rest.push(index);
        }
    }
    if !rest.is_empty() {
        let squares = rest.iter().map(|index| square(grads[*index])).collect();
        let squares = Tensor::cat(squares, 0).into_data();
        for (index, square) in rest.into_iter().zip(squares.iter::<f64>()) {
            sums[index] = square;
        }
    }
    sums
}

fn square(grad: &Tensor<1>) -> Tensor<1> {
    #[cfg(feature = "cube")]
    if dispatch::has_cube_kernel(&grad.device(), &[grad.dtype()]) {
        let grad = opened(Erased::new(grad.clone()));
        return closed(super::cube::reduce::sum_of_squares(grad)).into_tensor();
    }
    let wide = if grad.dtype().size() < DType::F32.size() { DType::F32 } else { grad.dtype() };
    let grad = grad.clone().cast(wide);
    (grad.clone() * grad).sum()
}

/// Adds a gradient to an accumulated one, in place where that is unshared.
///
/// # Shapes
///
/// Both tensors have one length.
pub fn accumulate(into: Tensor<1>, grad: Tensor<1>) -> Tensor<1> {
    if is_empty(&into) {
        return into;
    }
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
    #[cfg(feature = "cube")]
    if dispatch::has_cube_kernel(&into.device(), &[into.dtype(), grad.dtype()]) {
        let [into, grad] = [into, grad].map(|tensor| opened(Erased::new(tensor)));
        return closed(super::cube::reduce::accumulate(into, grad, 1.0)).into_tensor();
    }
    into + grad
}
