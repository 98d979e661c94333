//! Cross-entropy over logits whose vocabulary is sharded: the local parts that ranks combine by reductions.
//!
//! A loss over shards takes [`shard_maxima`], a maximum over the ranks, [`shard_sums`], two sums over the ranks, and then
//! `log(sum) + maximum - target` for each token; [`shard_gradients`] needs no communication. All tensors are plain ones,
//! outside autodiff. Labels are global. An ignored token has gradients of zero; its loss is the caller's to leave out.

use burn::tensor::{DType, Device, Int, Tensor};
use rayon::prelude::*;

#[cfg(feature = "cube")]
use super::cube::shard as cube;
use super::rows::IGNORE_INDEX;
#[cfg(feature = "cube")]
use crate::backend::Erased;
#[cfg(feature = "cube")]
use crate::kernels::cube::{closed, opened, opened_integers};
use crate::kernels::simd::{self, vectorized};
use crate::kernels::{dispatch, flex};

/// Returns each token's largest logit of this shard.
///
/// # Shapes
///
/// `logits` is `[tokens, local vocabulary]`; the result is `[tokens]`.
pub fn shard_maxima(logits: &Tensor<2>) -> Tensor<1> {
    #[cfg(feature = "cube")]
    if dispatch::has_cube_kernel(&logits.device(), &[logits.dtype()]) {
        return closed(cube::maxima(opened(Erased::new(logits.clone())))).into_tensor();
    }
    if !dispatch::has_kernel(&logits.device(), &[logits.dtype()]) {
        return logits.clone().max_dim(1).squeeze_dim::<1>(1);
    }
    let logits = flex::contiguous(flex::from_tensor(logits.clone()));
    let (rows, columns) = flex::matrix_dims(&logits);
    let task = flex::rows_per_grain(columns);
    let mut maxima = flex::scratch(rows);
    maxima
        .par_chunks_mut(task)
        .zip(logits.storage::<f32>().par_chunks(task * columns.max(1)))
        .for_each(|(maxima, logits)| {
            vectorized!(
                for (highest, row) in maxima.iter_mut().zip(logits.chunks_exact(columns)) {
                    *highest = simd::max(row);
                }
            );
        });
    flex::into_tensor(flex::tensor(maxima, [rows]))
}

/// Returns each token's sum of `exp(logit - maximum)` over this shard, and its label's logit where that lies in the shard
/// (zero elsewhere).
///
/// # Shapes
///
/// `logits` is `[tokens, local vocabulary]` and begins at the global index `first`; `labels`, `maxima` and both results are
/// `[tokens]`.
pub fn shard_sums(
    logits: &Tensor<2>,
    labels: &Tensor<1, Int>,
    maxima: &Tensor<1>,
    first: usize,
) -> (Tensor<1>, Tensor<1>) {
    let [tokens, columns] = logits.dims();
    let (device, dtype) = (logits.device(), logits.dtype());
    #[cfg(feature = "cube")]
    if dispatch::has_cube_kernel(&device, &[dtype, maxima.dtype()]) {
        let [logits, maxima] =
            [Erased::new(logits.clone()), Erased::new(maxima.clone())].map(opened);
        let labels = opened_integers(labels.clone());
        let (sums, targets) = cube::sums(logits, labels, maxima, first);
        return (closed(sums).into_tensor(), closed(targets).into_tensor());
    }
    if !dispatch::has_kernel(&device, &[dtype, maxima.dtype()]) {
        let hits = hits(labels, [tokens, columns], first, dtype);
        let shifted = logits.clone() - maxima.clone().unsqueeze_dim::<2>(1);
        let sums = shifted.exp().sum_dim(1).squeeze_dim::<1>(1);
        return (sums, (logits.clone() * hits).sum_dim(1).squeeze_dim::<1>(1));
    }
    let labels = flex::integers(labels.clone());
    let logits = flex::contiguous(flex::from_tensor(logits.clone()));
    let maxima = flex::contiguous(flex::from_tensor(maxima.clone()));
    let task = flex::rows_per_grain(columns);
    let (mut sums, mut targets) = (flex::scratch(tokens), flex::scratch(tokens));
    let results = sums.par_chunks_mut(task).zip(targets.par_chunks_mut(task));
    let rows = logits.storage::<f32>().par_chunks(task * columns.max(1));
    let given = maxima.storage::<f32>().par_chunks(task).zip(labels.par_chunks(task));
    results.zip(rows).zip(given).for_each(|(((sums, targets), rows), (maxima, labels))| {
        vectorized!(for (i, row) in rows.chunks_exact(columns).enumerate() {
            sums[i] = simd::sum_exp(row, maxima[i]);
            targets[i] = local(labels[i], first, columns).map_or(0.0, |label| row[label]);
        });
    });
    let wrap = |values| flex::into_tensor(flex::tensor(values, [tokens]));
    (wrap(sums), wrap(targets))
}

/// Returns this shard of the gradient of the summed loss, times `factor`; reuses the logits where they are unshared.
///
/// # Shapes
///
/// `logits` and the result are `[tokens, local vocabulary]`; `labels` and `log_totals` (the logarithm of the sum over all
/// shards, plus the maximum) are `[tokens]`.
pub fn shard_gradients(
    logits: Tensor<2>,
    labels: &Tensor<1, Int>,
    log_totals: &Tensor<1>,
    first: usize,
    factor: f64,
) -> Tensor<2> {
    let [tokens, columns] = logits.dims();
    let dtype = logits.dtype();
    #[cfg(feature = "cube")]
    if dispatch::has_cube_kernel(&logits.device(), &[dtype, log_totals.dtype()]) {
        let [logits, log_totals] =
            [Erased::new(logits), Erased::new(log_totals.clone())].map(opened);
        let (labels, factor) = (opened_integers(labels.clone()), factor as f32);
        let ignored = IGNORE_INDEX as i32;
        let gradient = cube::gradients(logits, labels, log_totals, first, factor, ignored);
        return closed(gradient).into_tensor();
    }
    if !dispatch::has_kernel(&logits.device(), &[dtype, log_totals.dtype()]) {
        let hits = hits(labels, [tokens, columns], first, dtype);
        let shares = (logits - log_totals.clone().unsqueeze_dim::<2>(1)).exp();
        return (shares - hits) * counted(labels, dtype).unsqueeze_dim::<2>(1) * factor;
    }
    let labels = flex::integers(labels.clone());
    let log_totals = flex::contiguous(flex::from_tensor(log_totals.clone()));
    let mut logits = flex::contiguous(flex::from_tensor(logits));
    let (task, factor) = (flex::rows_per_task(tokens, columns), factor as f32);
    let given = log_totals.storage::<f32>().par_chunks(task).zip(labels.par_chunks(task));
    let rows = logits.storage_mut::<f32>().par_chunks_mut(task * columns.max(1));
    rows.zip(given).for_each(|(rows, (log_totals, labels))| {
        vectorized!(for (i, row) in rows.chunks_exact_mut(columns).enumerate() {
            if labels[i] == IGNORE_INDEX {
                row.fill(0.0);
                continue;
            }
            for logit in row.iter_mut() {
                *logit = simd::exp(*logit - log_totals[i]) * factor;
            }
            if let Some(label) = local(labels[i], first, columns) {
                row[label] -= factor;
            }
        });
    });
    flex::into_tensor(logits)
}

/// Returns a label's index in the shard that begins at `first`.
fn local(label: i64, first: usize, columns: usize) -> Option<usize> {
    usize::try_from(label).ok()?.checked_sub(first).filter(|&label| label < columns)
}

/// One for a token that takes part in the loss, zero for an ignored one.
fn counted(labels: &Tensor<1, Int>, dtype: DType) -> Tensor<1> {
    labels.clone().not_equal_elem(IGNORE_INDEX).float().cast(dtype)
}

/// One where a column of the shard is the token's label.
fn hits(
    labels: &Tensor<1, Int>,
    [tokens, columns]: [usize; 2],
    first: usize,
    dtype: DType,
) -> Tensor<2> {
    let device: Device = labels.device();
    let indices = Tensor::<1, Int>::arange(first as i64..(first + columns) as i64, &device);
    let indices = indices.reshape([1, columns]);
    let shape = [tokens, columns];
    let labels = labels.clone().reshape([tokens, 1]).cast(indices.dtype());
    labels.expand(shape).equal(indices.expand(shape)).float().cast(dtype)
}
