//! Token embedding: rows of a table by identifier.

#[cfg(feature = "cube")]
mod cube;
#[cfg(feature = "cube")]
mod device;

use std::sync::Arc;

use burn::tensor::{Int, Tensor};
use burn_flex::FlexTensor;
use rayon::prelude::*;

use crate::kernels::fused::{Kernel, apply1};
use crate::kernels::half_precision::widened;
use crate::kernels::simd::vectorized;
use crate::kernels::{dispatch, flex};

/// Looks up the row of each token.
///
/// # Shapes
///
/// `weight` is `[vocabulary, hidden]`, `ids` is `[batch, sequence]`; the result is `[batch, sequence, hidden]`.
///
/// # Panics
///
/// When an identifier lies outside the vocabulary.
pub fn embedding(weight: Tensor<2>, ids: Tensor<2, Int>) -> Tensor<3> {
    if dispatch::has_fused_kernel(&weight.device(), &[weight.dtype()]) {
        let [vocabulary, hidden] = weight.dims();
        let [batch, sequence] = ids.dims();
        let ids: Arc<[usize]> = flex::integers(ids).into_iter().map(|id| id as usize).collect();
        assert!(
            ids.iter().all(|&id| id < vocabulary),
            "identifiers must lie within the vocabulary"
        );
        return apply1(
            weight,
            EmbeddingKernel { ids, shape: [batch, sequence, hidden], vocabulary },
        );
    }
    #[cfg(feature = "cube")]
    if dispatch::has_cube_kernel(&weight.device(), &[weight.dtype()]) {
        return device::embedding(weight, ids);
    }
    reference(weight, ids)
}

fn reference(weight: Tensor<2>, ids: Tensor<2, Int>) -> Tensor<3> {
    let [batch, sequence] = ids.dims();
    let [_, hidden] = weight.dims();
    let dtype = weight.dtype();
    // The gradient of a row is a sum over the tokens that looked it up.
    let rows = widened(weight).select(0, ids.reshape([batch * sequence]));
    rows.cast(dtype).reshape([batch, sequence, hidden])
}

#[derive(Debug, Clone)]
struct EmbeddingKernel {
    ids: Arc<[usize]>,
    shape: [usize; 3],
    vocabulary: usize,
}

impl Kernel<1> for EmbeddingKernel {
    type Saved = ();

    fn reads(&self, _needs: [bool; 1]) -> [bool; 1] {
        [false]
    }

    fn forward(&self, [weight]: [FlexTensor; 1], _needs: [bool; 1]) -> (FlexTensor, ()) {
        let hidden = self.shape[2];
        let weight = flex::contiguous(weight);
        let table = weight.storage::<f32>();
        let mut output = flex::scratch(self.ids.len() * hidden);
        if hidden > 0 {
            let task = flex::rows_per_task(self.ids.len(), hidden);
            output.par_chunks_mut(task * hidden).zip(self.ids.par_chunks(task)).for_each(
                |(rows, ids)| {
                    for (row, id) in rows.chunks_exact_mut(hidden).zip(ids) {
                        row.copy_from_slice(&table[id * hidden..(id + 1) * hidden]);
                    }
                },
            );
        }
        (flex::tensor(output, self.shape), ())
    }

    fn backward(
        &self,
        _inputs: [Option<FlexTensor>; 1],
        (): (),
        grad: FlexTensor,
        _needs: [bool; 1],
    ) -> [Option<FlexTensor>; 1] {
        let hidden = self.shape[2];
        let grad = flex::contiguous(grad);
        let rows = grad.storage::<f32>();
        let mut table = vec![0.0; self.vocabulary * hidden];
        if hidden > 0 {
            // Each task owns a range of the vocabulary and meets its tokens in order: no races, one order of summation.
            let task = flex::rows_per_task(self.vocabulary, hidden);
            table.par_chunks_mut(task * hidden).enumerate().for_each(|(index, part)| {
                self.scatter(rows, part, index * task);
            });
        }
        [Some(flex::tensor(table, [self.vocabulary, hidden]))]
    }
}

impl EmbeddingKernel {
    /// Adds the gradients of the tokens whose identifiers lie in the part of the table that begins at `first`.
    fn scatter(&self, rows: &[f32], part: &mut [f32], first: usize) {
        let hidden = self.shape[2];
        vectorized!(for (id, row) in self.ids.iter().zip(rows.chunks_exact(hidden)) {
            let start = id.wrapping_sub(first).wrapping_mul(hidden);
            if *id >= first && start < part.len() {
                for (sum, value) in part[start..start + hidden].iter_mut().zip(row) {
                    *sum += value;
                }
            }
        });
    }
}
