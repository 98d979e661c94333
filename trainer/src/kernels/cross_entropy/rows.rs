//! The loss of a block of rows of logits, and its gradient in place.

use burn::tensor::{Int, Tensor};
use rayon::prelude::*;

use crate::kernels::flex;
use crate::kernels::simd::{self, vectorized};

/// Label of a token that takes no part in the loss.
pub const IGNORE_INDEX: i64 = -100;

/// Reads and checks labels: `None` is an ignored token.
pub(super) fn targets(labels: Tensor<1, Int>, vocabulary: usize) -> Vec<Option<usize>> {
    flex::integers(labels)
        .into_iter()
        .map(|label| {
            let target = (label != IGNORE_INDEX).then_some(label as usize);
            assert!(
                target.is_none_or(|target| target < vocabulary),
                "labels must lie within the vocabulary or be the ignore index"
            );
            target
        })
        .collect()
}

/// Writes each row's log-sum-exp and returns the sum of the losses.
///
/// Rows are summed in `f64` over blocks of fixed size, so that the sum does not depend on the threads.
pub(super) fn losses(logits: &[f32], targets: &[Option<usize>], log_totals: &mut [f32]) -> f64 {
    let Some(vocabulary) = logits.len().checked_div(targets.len()).filter(|&v| v > 0) else {
        return 0.0;
    };
    let task = flex::rows_per_grain(vocabulary);
    let partial: Vec<f64> = logits
        .par_chunks(task * vocabulary)
        .zip(targets.par_chunks(task))
        .zip(log_totals.par_chunks_mut(task))
        .map(|((logits, targets), log_totals)| {
            let mut loss = 0.0;
            vectorized!({
                let rows = logits.chunks_exact(vocabulary).zip(targets);
                for ((row, target), log_total) in rows.zip(log_totals.iter_mut()) {
                    if let Some(target) = target {
                        let highest = simd::max(row);
                        *log_total = highest + simd::sum_exp(row, highest).ln();
                        loss += f64::from(*log_total) - f64::from(row[*target]);
                    } else {
                        *log_total = 0.0;
                    }
                }
            });
            loss
        })
        .collect();
    partial.iter().sum()
}

/// Replaces logits by the gradient of the loss, times `factor`; ignored rows become zero.
pub(super) fn gradients(
    logits: &mut [f32],
    targets: &[Option<usize>],
    log_totals: &[f32],
    factor: f32,
) {
    let Some(vocabulary) = logits.len().checked_div(targets.len()).filter(|&v| v > 0) else {
        return;
    };
    let task = flex::rows_per_task(targets.len(), vocabulary);
    logits
        .par_chunks_mut(task * vocabulary)
        .zip(targets.par_chunks(task))
        .zip(log_totals.par_chunks(task))
        .for_each(|((logits, targets), log_totals)| {
            vectorized!({
                let rows = logits.chunks_exact_mut(vocabulary).zip(targets);
                for ((row, target), &log_total) in rows.zip(log_totals) {
                    if let Some(target) = target {
                        for logit in row.iter_mut() {
                            *logit = simd::exp(*logit - log_total) * factor;
                        }
                        row[*target] -= factor;
                    } else {
                        row.fill(0.0);
                    }
                }
            });
        });
}

/// Replaces logits by the gradient of the loss and returns the sum of the losses: both in one visit to each row.
pub(super) fn losses_and_gradients(logits: &mut [f32], targets: &[Option<usize>]) -> f64 {
    let Some(vocabulary) = logits.len().checked_div(targets.len()).filter(|&v| v > 0) else {
        return 0.0;
    };
    let task = flex::rows_per_grain(vocabulary);
    let partial: Vec<f64> = logits
        .par_chunks_mut(task * vocabulary)
        .zip(targets.par_chunks(task))
        .map(|(logits, targets)| {
            let mut loss = 0.0;
            vectorized!(for (row, target) in logits.chunks_exact_mut(vocabulary).zip(targets) {
                if let Some(target) = target {
                    let highest = simd::max(row);
                    let logit = row[*target];
                    let total = simd::exp_in_place(row, highest);
                    loss += f64::from(highest + total.ln()) - f64::from(logit);
                    let share = 1.0 / total;
                    for value in row.iter_mut() {
                        *value *= share;
                    }
                    row[*target] -= 1.0;
                } else {
                    row.fill(0.0);
                }
            });
            loss
        })
        .collect();
    partial.iter().sum()
}
