//! Residual connection and norm as one operation: the sum is normalized while it is at hand.

use std::fmt;

use burn::tensor::Tensor;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::layer_norm::{self, LayerNormKernel};
use super::rms_norm::{self, RmsNormKernel};
use crate::kernels::fused::{JointKernel, apply_joint};
use crate::kernels::simd::vectorized;
use crate::kernels::{dispatch, flex};

/// Adds `delta` to `x` and applies [`rms_norm`](super::rms_norm) to the sum; returns the sum and its norm.
///
/// # Shapes
///
/// `x` and `delta` are `[.., h]`, `weight` is `[h]`; both results have the shape of `x`.
pub fn add_rms_norm<const D: usize>(
    x: Tensor<D>,
    delta: Tensor<D>,
    weight: Tensor<1>,
    epsilon: f64,
) -> [Tensor<D>; 2] {
    #[cfg(feature = "cube")]
    if x.dtype() == delta.dtype()
        && dispatch::has_cube_kernel(&x.device(), &[x.dtype(), weight.dtype()])
    {
        return super::device::add_rms_norm(x, delta, weight, epsilon);
    }
    if !dispatch::has_fused_kernel(&x.device(), &[x.dtype(), delta.dtype(), weight.dtype()]) {
        let sum = x + delta;
        return [sum.clone(), rms_norm::reference(sum, weight, epsilon)];
    }
    apply(x, delta, weight, None, RmsNormKernel { epsilon: epsilon as f32 })
}

/// Adds `delta` to `x` and applies [`layer_norm`](super::layer_norm) to the sum; returns the sum and its norm.
///
/// # Shapes
///
/// `x` and `delta` are `[.., h]`, `weight` and `bias` are `[h]`; both results have the shape of `x`.
pub fn add_layer_norm<const D: usize>(
    x: Tensor<D>,
    delta: Tensor<D>,
    weight: Tensor<1>,
    bias: Option<Tensor<1>>,
    epsilon: f64,
) -> [Tensor<D>; 2] {
    if !dispatch::has_fused_kernel(&x.device(), &[x.dtype(), delta.dtype(), weight.dtype()]) {
        let sum = x + delta;
        return [sum.clone(), layer_norm::reference(sum, weight, bias, epsilon)];
    }
    apply(x, delta, weight, bias, LayerNormKernel { epsilon: epsilon as f32 })
}

fn apply<const D: usize, N: RowNorm>(
    x: Tensor<D>,
    delta: Tensor<D>,
    weight: Tensor<1>,
    bias: Option<Tensor<1>>,
    norm: N,
) -> [Tensor<D>; 2] {
    assert_eq!(x.dims(), delta.dims(), "both terms must have one shape");
    assert_eq!(x.dims()[D - 1], weight.dims()[0], "the weight must have the row's length");
    let mut inputs = vec![x.into_dispatch(), delta.into_dispatch(), weight.into_dispatch()];
    inputs.extend(bias.map(Tensor::into_dispatch));
    let mut outputs = apply_joint(inputs, AddNormKernel { norm }).into_iter();
    [(); 2].map(|()| outputs.next().expect("the sum and its norm"))
}

/// A norm of rows.
pub(super) trait RowNorm: Copy + fmt::Debug + Send + Sync + 'static {
    /// What backward needs of a row.
    type Statistics: Copy + Default + fmt::Debug + Send + Sync + 'static;

    /// Normalizes rows.
    fn forward_rows(
        self,
        y: &mut [f32],
        x: &[f32],
        scale: &[f32],
        shift: Option<&[f32]>,
        statistics: &mut [Self::Statistics],
    );

    /// Turns the output's gradient into the input's and adds to the gradients of scale and shift.
    fn backward_rows(
        grad: &mut [f32],
        x: &[f32],
        scale: &[f32],
        statistics: &[Self::Statistics],
        parameters: (&mut [f32], &mut [f32]),
    );
}

/// Rows that are added and then normalized: few enough to stay in the first-level cache in between.
const ROWS: usize = 8;

/// Inputs: two terms, scale, perhaps shift. Outputs: the sum and its norm.
#[derive(Debug, Clone, Copy)]
struct AddNormKernel<N> {
    norm: N,
}

impl<N: RowNorm> JointKernel for AddNormKernel<N> {
    /// The sum, and the statistics of its rows.
    type Saved = (FlexTensor, Vec<N::Statistics>);

    fn reads(&self, needs: &[bool]) -> Vec<bool> {
        (0..needs.len()).map(|i| i == 2).collect()
    }

    fn first_weight(&self) -> usize {
        2
    }

    fn forward(&self, inputs: Vec<FlexTensor>) -> (Vec<FlexTensor>, Self::Saved) {
        let mut inputs = inputs.into_iter().map(flex::contiguous);
        let mut next = || inputs.next().expect("two terms and a scale");
        let (x, mut sum, scale) = (next(), next(), next());
        let shift = inputs.next();
        let (rows, h) = flex::matrix_dims(&x);
        let (scale, shift) = (scale.storage(), shift.as_ref().map(FlexTensor::storage));
        let mut y = flex::scratch(rows * h);
        let mut statistics = vec![N::Statistics::default(); rows];
        let task = flex::rows_per_task(rows, h);
        // The second term becomes the sum: nobody else holds what a layer has just computed.
        y.par_chunks_mut(task * h)
            .zip(sum.storage_mut::<f32>().par_chunks_mut(task * h))
            .zip(x.storage::<f32>().par_chunks(task * h))
            .zip(statistics.par_chunks_mut(task))
            .for_each(|(((y, sum), x), statistics)| {
                let blocks = y.chunks_mut(ROWS * h).zip(sum.chunks_mut(ROWS * h));
                let blocks = blocks.zip(x.chunks(ROWS * h)).zip(statistics.chunks_mut(ROWS));
                for (((y, sum), x), statistics) in blocks {
                    add(sum, x);
                    self.norm.forward_rows(y, sum, scale, shift, statistics);
                }
            });
        let y = flex::tensor(y, flex::dims(&x));
        (vec![sum.clone(), y], (sum, statistics))
    }

    fn backward(
        &self,
        inputs: Vec<Option<FlexTensor>>,
        (sum, statistics): Self::Saved,
        grads: Vec<Option<FlexTensor>>,
        needs: &[bool],
    ) -> Vec<Option<FlexTensor>> {
        let mut grads = grads.into_iter().map(|grad| grad.map(flex::contiguous));
        let mut next = || grads.next().flatten();
        let (of_sum, of_norm) = (next(), next());
        let mut gradients = vec![None; needs.len()];
        let Some(mut grad) = of_norm else {
            // Only the sum was used.
            (gradients[0], gradients[1]) = (of_sum.clone(), of_sum);
            return gradients;
        };
        let scale = inputs.into_iter().nth(2).flatten().expect("the scale was kept");
        let scale = flex::contiguous(scale);
        let (rows, h) = flex::matrix_dims(&sum);
        let task = flex::rows_per_task(rows, h);
        // The gradient's buffer becomes that of both terms.
        let partial: Vec<(Vec<f32>, Vec<f32>)> = grad
            .storage_mut::<f32>()
            .par_chunks_mut(task * h)
            .zip(sum.storage::<f32>().par_chunks(task * h))
            .zip(statistics.par_chunks(task))
            .enumerate()
            .map(|(index, ((grad, x), statistics))| {
                let first = index * task * h;
                let along = of_sum.as_ref().map(|g| &g.storage::<f32>()[first..][..grad.len()]);
                backward_task::<N>(grad, along, x, scale.storage(), statistics)
            })
            .collect();
        let (dw, db): (Vec<_>, Vec<_>) = partial.into_iter().unzip();
        gradients[2] = Some(flex::tensor(flex::sum_vectors(dw, h), [h]));
        if needs.len() > 3 {
            gradients[3] = Some(flex::tensor(flex::sum_vectors(db, h), [h]));
        }
        (gradients[0], gradients[1]) = (Some(grad.clone()), Some(grad));
        gradients
    }
}

/// Turns the norm's gradient into the terms', to which the sum's gradient passes as it is.
fn backward_task<N: RowNorm>(
    grad: &mut [f32],
    of_sum: Option<&[f32]>,
    x: &[f32],
    scale: &[f32],
    statistics: &[N::Statistics],
) -> (Vec<f32>, Vec<f32>) {
    let h = scale.len();
    let (mut dw, mut db) = (vec![0.0; h], vec![0.0; h]);
    let blocks = grad.chunks_mut(ROWS * h).zip(x.chunks(ROWS * h)).zip(statistics.chunks(ROWS));
    for (index, ((grad, x), statistics)) in blocks.enumerate() {
        N::backward_rows(grad, x, scale, statistics, (&mut dw, &mut db));
        if let Some(of_sum) = of_sum {
            add(grad, &of_sum[index * ROWS * h..][..grad.len()]);
        }
    }
    (dw, db)
}

fn add(into: &mut [f32], values: &[f32]) {
    vectorized!(for (into, value) in into.iter_mut().zip(values) {
        *into += value;
    });
}
