//! Layer norm: one pass forward, one pass backward.

use burn::tensor::Tensor;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::add::RowNorm;
use crate::kernels::fused::{Kernel, apply2, apply3};
use crate::kernels::half_precision::widened;
use crate::kernels::simd::{self, vectorized};
use crate::kernels::{dispatch, flex};

/// Centers each row, divides it by its standard deviation, scales it by `weight` and shifts it by `bias`.
///
/// The variance is the biased one. Half-precision rows are normalized, scaled and shifted in `f32`, and
/// rounded once.
///
/// # Shapes
///
/// `x` is `[.., h]`, `weight` and `bias` are `[h]`; the result has the shape of `x`.
///
/// # References
///
/// Layer Normalization, arXiv:1607.06450.
pub fn layer_norm<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<1>,
    bias: Option<Tensor<1>>,
    epsilon: f64,
) -> Tensor<D> {
    if !dispatch::has_fused_kernel(&x.device(), &[x.dtype(), weight.dtype()]) {
        return reference(x, weight, bias, epsilon);
    }
    assert_eq!(x.dims()[D - 1], weight.dims()[0], "the weight must have the row's length");
    let kernel = LayerNormKernel { epsilon: epsilon as f32 };
    match bias {
        Some(bias) => apply3(x, weight, bias, kernel),
        None => apply2(x, weight, kernel),
    }
}

pub(super) fn reference<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<1>,
    bias: Option<Tensor<1>>,
    epsilon: f64,
) -> Tensor<D> {
    let dtype = x.dtype();
    let x = widened(x);
    let centered = x.clone() - x.mean_dim(D - 1);
    let variance = (centered.clone() * centered.clone()).mean_dim(D - 1);
    let normalized = centered * (variance + epsilon).sqrt().recip();
    let scaled = normalized * widened(weight).unsqueeze();
    let shifted = match bias {
        Some(bias) => scaled + widened(bias).unsqueeze(),
        None => scaled,
    };
    shifted.cast(dtype)
}

#[derive(Debug, Clone, Copy)]
pub(super) struct LayerNormKernel {
    pub(super) epsilon: f32,
}

/// Mean and inverse standard deviation of a row.
type Statistics = [f32; 2];

impl<const N: usize> Kernel<N> for LayerNormKernel {
    type Saved = Vec<Statistics>;

    fn reads(&self, _needs: [bool; N]) -> [bool; N] {
        std::array::from_fn(|i| i < 2)
    }

    fn weights(&self) -> [bool; N] {
        std::array::from_fn(|i| i > 0)
    }

    fn forward(&self, inputs: [FlexTensor; N], _needs: [bool; N]) -> (FlexTensor, Self::Saved) {
        let inputs = inputs.map(flex::contiguous);
        let x = &inputs[0];
        let (rows, h) = flex::matrix_dims(x);
        let scale = inputs[1].storage::<f32>();
        let shift = inputs.get(2).map(FlexTensor::storage::<f32>);
        let mut y = flex::scratch(rows * h);
        let mut statistics = vec![[0.0; 2]; rows];
        let task = flex::rows_per_task(rows, h);
        y.par_chunks_mut(task * h)
            .zip(x.storage::<f32>().par_chunks(task * h))
            .zip(statistics.par_chunks_mut(task))
            .for_each(|((y, x), statistics)| self.forward_rows(y, x, scale, shift, statistics));
        (flex::tensor(y, flex::dims(x)), statistics)
    }

    fn backward(
        &self,
        inputs: [Option<FlexTensor>; N],
        statistics: Self::Saved,
        grad: FlexTensor,
        _needs: [bool; N],
    ) -> [Option<FlexTensor>; N] {
        let mut inputs = inputs.into_iter().flatten().map(flex::contiguous);
        let x = inputs.next().expect("the input was kept");
        let weight = inputs.next().expect("the weight was kept");
        let mut grad = flex::contiguous(grad);
        let (rows, h) = flex::matrix_dims(&x);
        let (x, scale) = (x.storage::<f32>(), weight.storage::<f32>());
        let task = flex::rows_per_task(rows, h);
        // The gradient's buffer becomes the input's gradient.
        let partial: Vec<(Vec<f32>, Vec<f32>)> = grad
            .storage_mut::<f32>()
            .par_chunks_mut(task * h)
            .zip(x.par_chunks(task * h))
            .zip(statistics.par_chunks(task))
            .map(|((grad, x), statistics)| {
                let (mut dw, mut db) = (vec![0.0; h], vec![0.0; h]);
                Self::backward_rows(grad, x, scale, statistics, (&mut dw, &mut db));
                (dw, db)
            })
            .collect();
        let (dw, db): (Vec<_>, Vec<_>) = partial.into_iter().unzip();
        let mut gradients = [const { None }; N];
        gradients[0] = Some(grad);
        gradients[1] = Some(flex::tensor(flex::sum_vectors(dw, h), [h]));
        if N > 2 {
            gradients[2] = Some(flex::tensor(flex::sum_vectors(db, h), [h]));
        }
        gradients
    }
}

impl RowNorm for LayerNormKernel {
    type Statistics = Statistics;

    fn forward_rows(
        self,
        y: &mut [f32],
        x: &[f32],
        scale: &[f32],
        shift: Option<&[f32]>,
        statistics: &mut [Statistics],
    ) {
        let h = scale.len();
        vectorized!(for ((y, x), row) in
            y.chunks_exact_mut(h).zip(x.chunks_exact(h)).zip(statistics.iter_mut())
        {
            let mean = simd::sum(x) / h as f32;
            for (y, x) in y.iter_mut().zip(x) {
                *y = x - mean;
            }
            let inverse = 1.0 / (simd::dot(y, y) / h as f32 + self.epsilon).sqrt();
            *row = [mean, inverse];
            for (y, scale) in y.iter_mut().zip(scale) {
                *y *= inverse * scale;
            }
            if let Some(shift) = shift {
                for (y, shift) in y.iter_mut().zip(shift) {
                    *y += shift;
                }
            }
        });
    }

    fn backward_rows(
        grad: &mut [f32],
        x: &[f32],
        scale: &[f32],
        statistics: &[Statistics],
        (dw, db): (&mut [f32], &mut [f32]),
    ) {
        let h = scale.len();
        vectorized!({
            let (dw, db) = (&mut dw[..h], &mut db[..h]);
            let rows = grad.chunks_exact_mut(h).zip(x.chunks_exact(h));
            for ((g, x), &[mean, inverse]) in rows.zip(statistics) {
                let level = simd::dot(g, scale) / h as f32;
                let along = (simd::sum3(g, x, scale) / h as f32 - level * mean) * inverse * inverse;
                for i in 0..h {
                    let centered = x[i] - mean;
                    dw[i] += g[i] * centered * inverse;
                    db[i] += g[i];
                    g[i] = (g[i] * scale[i] - level - centered * along) * inverse;
                }
            }
        });
    }
}
