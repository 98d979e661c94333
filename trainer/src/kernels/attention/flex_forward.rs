//! Forward: blocks of queries against blocks of keys with an online softmax.

use std::ops::Range;

use faer::prelude::ReborrowMut;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use super::mask::Mask;
use super::operation::Geometry;
use crate::kernels::simd::{self, vectorized};
use crate::kernels::{flex, matmul};

/// Queries of a block.
pub(super) const QUERIES: usize = 64;
/// Keys of a block: a block of scores stays in the second-level cache.
pub(super) const KEYS: usize = 256;

/// Returns the output and the log-sum-exp of each query's scores, `[batch, heads, queries]`.
pub(super) fn forward(
    geometry: &Geometry,
    mask: &Mask,
    q: &[f32],
    k: &[f32],
    v: &[f32],
) -> (Vec<f32>, Vec<f32>) {
    let &Geometry { batch, queries, heads, head_dim, .. } = geometry;
    let mut output = flex::scratch(q.len());
    let mut log_totals = flex::scratch(batch * heads * queries);
    if q.is_empty() {
        return (output, log_totals);
    }
    let outputs = head_views(&mut output, batch * queries, [batch, heads], head_dim);
    let work = outputs.into_par_iter().zip(log_totals.par_chunks_mut(queries)).enumerate();
    work.for_each(|(index, (output, log_totals))| {
        let head = Head::new(geometry, index / heads, index % heads, q, k, v);
        head.forward(mask, output, log_totals);
    });
    (output, log_totals)
}

/// Splits `[batch * sequence, heads * width]` into one view per sequence and head.
pub(super) fn head_views(
    values: &mut [f32],
    rows: usize,
    [batch, heads]: [usize; 2],
    width: usize,
) -> Vec<MatMut<'_, f32>> {
    let mut rest = matmul::rows_mut(values, rows, heads * width);
    let mut views = Vec::with_capacity(batch * heads);
    for _ in 0..batch {
        let (mut sequence, after) = rest.split_at_row_mut(rows / batch);
        for _ in 0..heads {
            let (view, others) = sequence.split_at_col_mut(width);
            views.push(view);
            sequence = others;
        }
        rest = after;
    }
    views
}

/// Returns the columns of one head of `[batch, sequence, heads, width]` as `[sequence, width]`.
pub(super) fn head_view(
    values: &[f32],
    [sequences, heads, width]: [usize; 3],
    sequence: usize,
    head: usize,
) -> MatRef<'_, f32> {
    let rows = values.len() / (heads * width).max(1);
    let length = rows / sequences.max(1);
    matmul::rows(values, rows, heads * width).submatrix(
        sequence * length,
        head * width,
        length,
        width,
    )
}

/// Queries, keys and values of one head of one sequence.
pub(super) struct Head<'a> {
    sequence: usize,
    scale: f32,
    q: MatRef<'a, f32>,
    k: MatRef<'a, f32>,
    v: MatRef<'a, f32>,
}

impl<'a> Head<'a> {
    fn new(
        geometry: &Geometry,
        sequence: usize,
        head: usize,
        q: &'a [f32],
        k: &'a [f32],
        v: &'a [f32],
    ) -> Self {
        let &Geometry { batch, heads, kv_heads, head_dim, scale, .. } = geometry;
        let of_key = [batch, kv_heads, head_dim];
        Self {
            sequence,
            scale,
            q: head_view(q, [batch, heads, head_dim], sequence, head),
            k: head_view(k, of_key, sequence, head / geometry.group()),
            v: head_view(v, of_key, sequence, head / geometry.group()),
        }
    }

    fn forward(&self, mask: &Mask, mut output: MatMut<'_, f32>, log_totals: &mut [f32]) {
        let width = self.q.ncols();
        let mut scores = flex::scratch(QUERIES * KEYS);
        let mut sums = flex::scratch(QUERIES * width);
        let length = self.q.nrows();
        for first in (0..length).step_by(QUERIES) {
            let block = first..length.min(first + QUERIES);
            let mut softmax = OnlineSoftmax::default();
            let sums = &mut sums[..block.len() * width];
            self.attend(mask, block.clone(), &mut softmax, &mut scores, sums);
            let rows = sums.chunks_exact(width).enumerate();
            for (row, sums) in rows {
                let total = softmax.totals[row];
                let share = if total > 0.0 { 1.0 / total } else { 0.0 };
                let target = row_mut(&mut output, first + row);
                vectorized!(for (target, sum) in target.iter_mut().zip(sums) {
                    *target = sum * share;
                });
                log_totals[first + row] = softmax.highest[row] + total.ln();
            }
        }
    }

    /// Sums the weighted values of one block of queries over all keys that it sees.
    fn attend(
        &self,
        mask: &Mask,
        queries: Range<usize>,
        softmax: &mut OnlineSoftmax,
        scores: &mut [f32],
        sums: &mut [f32],
    ) {
        let width = self.q.ncols();
        let seen = mask.block_range(self.sequence, queries.clone());
        if seen.is_empty() {
            sums.fill(0.0);
        }
        let q = self.q.subrows(queries.start, queries.len());
        let mut accumulate = Accum::Replace;
        for first in seen.clone().step_by(KEYS) {
            let keys = first..seen.end.min(first + KEYS);
            let scores = &mut scores[..queries.len() * keys.len()];
            score_block(scores, q, self.k.subrows(first, keys.len()), self.scale);
            vectorized!(for (row, scores) in scores.chunks_exact_mut(keys.len()).enumerate() {
                let query = queries.start + row;
                let range = mask.range(self.sequence, query);
                let scores = cut(scores, &keys, &range);
                mask.hide_documents(self.sequence, query, range.start.max(first), scores);
                let shrink = softmax.weigh(row, scores);
                if first > seen.start && shrink != 1.0 {
                    for sum in &mut sums[row * width..(row + 1) * width] {
                        *sum *= shrink;
                    }
                }
            });
            let weights = matmul::rows(scores, queries.len(), keys.len());
            let values = self.v.subrows(first, keys.len());
            let out = matmul::rows_mut(sums, queries.len(), width);
            faer::linalg::matmul::matmul(out, accumulate, weights, values, 1.0, Par::Seq);
            accumulate = Accum::Add;
        }
    }
}

/// Computes the scaled scores of a block, row-major.
pub(super) fn score_block(scores: &mut [f32], q: MatRef<'_, f32>, k: MatRef<'_, f32>, scale: f32) {
    let out = matmul::rows_mut(scores, q.nrows(), k.nrows());
    faer::linalg::matmul::matmul(out, Accum::Replace, q, k.transpose(), scale, Par::Seq);
}

/// Zeroes what lies outside a query's range and returns what lies inside.
#[inline(always)]
pub(super) fn cut<'a>(
    row: &'a mut [f32],
    keys: &Range<usize>,
    range: &Range<usize>,
) -> &'a mut [f32] {
    let end = range.end.clamp(keys.start, keys.end) - keys.start;
    let start = (range.start.clamp(keys.start, keys.end) - keys.start).min(end);
    let (row, after) = row.split_at_mut(end);
    let (before, inside) = row.split_at_mut(start);
    before.fill(0.0);
    after.fill(0.0);
    inside
}

/// Returns a row of a row-major view.
pub(super) fn row_mut<'a>(view: &'a mut MatMut<'_, f32>, row: usize) -> &'a mut [f32] {
    view.rb_mut()
        .row_mut(row)
        .try_as_row_major_mut()
        .expect("views of heads are row-major")
        .as_slice_mut()
}

/// The running maximum and sum of each query of a block.
struct OnlineSoftmax {
    highest: [f32; QUERIES],
    totals: [f32; QUERIES],
}

impl Default for OnlineSoftmax {
    fn default() -> Self {
        Self { highest: [f32::NEG_INFINITY; QUERIES], totals: [0.0; QUERIES] }
    }
}

impl OnlineSoftmax {
    /// Turns scores into weights and returns the factor of the sums taken so far.
    #[inline(always)]
    fn weigh(&mut self, row: usize, scores: &mut [f32]) -> f32 {
        let before = self.highest[row];
        let highest = simd::larger(simd::max(scores), before);
        if highest == f32::NEG_INFINITY {
            // No key seen: the difference of two infinities would not be a number.
            scores.fill(0.0);
            return 1.0;
        }
        let shrink = simd::exp(before - highest);
        self.highest[row] = highest;
        self.totals[row] = self.totals[row] * shrink + simd::exp_in_place(scores, highest);
        shrink
    }
}
