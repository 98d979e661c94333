//! Root-mean-square norm: one pass forward, one pass backward.

use burn::tensor::Tensor;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::add::RowNorm;
use crate::kernels::fused::{Kernel, apply2};
use crate::kernels::half_precision::widened;
use crate::kernels::simd::{self, vectorized};
use crate::kernels::{dispatch, flex};

/// Divides each row by its root mean square and scales it by `weight`.
///
/// Half-precision rows are normalized and scaled in `f32`, and rounded once.
///
/// # Shapes
///
/// `x` is `[.., h]`, `weight` is `[h]`; the result has the shape of `x`.
///
/// # References
///
/// Root Mean Square Layer Normalization, arXiv:1910.07467, equation 4.
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, epsilon: f64) -> Tensor<D> {
    if dispatch::has_fused_kernel(&x.device(), &[x.dtype(), weight.dtype()]) {
        assert_eq!(x.dims()[D - 1], weight.dims()[0], "the weight must have the row's length");
        return apply2(x, weight, RmsNormKernel { epsilon: epsilon as f32 });
    }
    #[cfg(feature = "cube")]
    if dispatch::has_cube_kernel(&x.device(), &[x.dtype(), weight.dtype()]) {
        return super::device::rms_norm(x, weight, epsilon);
    }
    reference(x, weight, epsilon)
}

pub(super) fn reference<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<1>,
    epsilon: f64,
) -> Tensor<D> {
    let dtype = x.dtype();
    let x = widened(x);
    let mean_square = (x.clone() * x.clone()).mean_dim(D - 1);
    let normalized = x * (mean_square + epsilon).sqrt().recip();
    (normalized * widened(weight).unsqueeze()).cast(dtype)
}

#[derive(Debug, Clone, Copy)]
pub(super) struct RmsNormKernel {
    pub(super) epsilon: f32,
}

impl Kernel<2> for RmsNormKernel {
    /// The inverse root mean square of each row.
    type Saved = Vec<f32>;

    fn reads(&self, _needs: [bool; 2]) -> [bool; 2] {
        [true, true]
    }

    fn weights(&self) -> [bool; 2] {
        [false, true]
    }

    fn forward(&self, [x, weight]: [FlexTensor; 2], _needs: [bool; 2]) -> (FlexTensor, Vec<f32>) {
        let (x, weight) = (flex::contiguous(x), flex::contiguous(weight));
        let (rows, h) = flex::matrix_dims(&x);
        let mut y = flex::scratch(rows * h);
        let mut inverses = flex::scratch(rows);
        let (values, scale) = (x.storage::<f32>(), weight.storage::<f32>());
        let task = flex::rows_per_task(rows, h);
        y.par_chunks_mut(task * h)
            .zip(values.par_chunks(task * h))
            .zip(inverses.par_chunks_mut(task))
            .for_each(|((y, x), inverses)| self.forward_rows(y, x, scale, None, inverses));
        (flex::tensor(y, flex::dims(&x)), inverses)
    }

    fn backward(
        &self,
        inputs: [Option<FlexTensor>; 2],
        inverses: Vec<f32>,
        grad: FlexTensor,
        _needs: [bool; 2],
    ) -> [Option<FlexTensor>; 2] {
        let [x, weight] = inputs.map(|t| flex::contiguous(t.expect("both inputs were kept")));
        let mut grad = flex::contiguous(grad);
        let (rows, h) = flex::matrix_dims(&x);
        let (x, scale) = (x.storage::<f32>(), weight.storage::<f32>());
        let task = flex::rows_per_task(rows, h);
        // The gradient's buffer becomes the input's gradient.
        let partial: Vec<Vec<f32>> = grad
            .storage_mut::<f32>()
            .par_chunks_mut(task * h)
            .zip(x.par_chunks(task * h))
            .zip(inverses.par_chunks(task))
            .map(|((grad, x), inverses)| {
                let mut dw = vec![0.0; h];
                Self::backward_rows(grad, x, scale, inverses, (&mut dw, &mut []));
                dw
            })
            .collect();
        let dw = flex::tensor(flex::sum_vectors(partial, h), [h]);
        [Some(grad), Some(dw)]
    }
}

impl RowNorm for RmsNormKernel {
    /// The inverse root mean square.
    type Statistics = f32;

    fn forward_rows(
        self,
        y: &mut [f32],
        x: &[f32],
        scale: &[f32],
        _shift: Option<&[f32]>,
        inverses: &mut [f32],
    ) {
        let h = scale.len();
        vectorized!(for ((y, x), inverse) in
            y.chunks_exact_mut(h).zip(x.chunks_exact(h)).zip(inverses.iter_mut())
        {
            let mean_square = simd::dot(x, x) / h as f32;
            *inverse = 1.0 / (mean_square + self.epsilon).sqrt();
            for ((y, x), scale) in y.iter_mut().zip(x).zip(scale) {
                *y = x * *inverse * scale;
            }
        });
    }

    fn backward_rows(
        grad: &mut [f32],
        x: &[f32],
        scale: &[f32],
        inverses: &[f32],
        (dw, _): (&mut [f32], &mut [f32]),
    ) {
        let h = scale.len();
        vectorized!({
            let dw = &mut dw[..h];
            let rows = grad.chunks_exact_mut(h).zip(x.chunks_exact(h));
            for ((g, x), &inverse) in rows.zip(inverses) {
                let projection = simd::sum3(g, x, scale);
                let along = projection * inverse * inverse * inverse / h as f32;
                for i in 0..h {
                    dw[i] += g[i] * x[i] * inverse;
                    g[i] = g[i] * scale[i] * inverse - x[i] * along;
                }
            }
        });
    }
}
