//! Forward: blocks of queries against blocks of keys with an online softmax.

use std::ops::Range;

use faer::MatMut;
use faer::prelude::ReborrowMut;
use rayon::prelude::*;

use super::mask::Mask;
use super::operation::Geometry;
use super::pack::{Columns, Head, KEYS, Rows};
use super::strips::{QUERIES, STRIP, Strip, Strips, cut};
use super::tile::{Left, Product};
use crate::kernels::simd::{self, vectorized};
use crate::kernels::{flex, matmul};

/// Returns the output and the log-sum-exp of each query's scores, `[batch, heads, queries]`.
pub(super) fn forward(
    geometry: &Geometry,
    mask: &Mask,
    q: &[f32],
    k: &[f32],
    v: &[f32],
) -> (Vec<f32>, Vec<f32>) {
    let &Geometry { batch, queries, heads, kv_heads, head_dim, scale, .. } = geometry;
    let mut output = flex::scratch(q.len());
    let mut log_totals = flex::scratch(batch * heads * queries);
    if q.is_empty() {
        return (output, log_totals);
    }
    let outputs = head_views(&mut output, batch * queries, [batch, heads], head_dim);
    let work = outputs.into_par_iter().zip(log_totals.par_chunks_mut(queries)).enumerate();
    work.for_each(|(index, (output, log_totals))| {
        let (sequence, head) = (index / heads, index % heads);
        let of_key = |values| {
            Head::new(values, [batch, kv_heads, head_dim], sequence, head / geometry.group())
        };
        let task = QueryHead {
            mask,
            sequence,
            q: Rows::copy(Head::new(q, [batch, heads, head_dim], sequence, head), scale),
            k: Columns::copy(of_key(k)),
            v: Rows::copy(of_key(v), 1.0),
            head_dim,
        };
        task.forward(output, log_totals);
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

/// Queries, keys and values of one head of one sequence.
struct QueryHead<'a> {
    mask: &'a Mask,
    sequence: usize,
    /// Scaled.
    q: Rows,
    k: Columns,
    v: Rows,
    head_dim: usize,
}

impl QueryHead<'_> {
    fn forward(&self, mut output: MatMut<'_, f32>, log_totals: &mut [f32]) {
        let mut scores = flex::scratch(STRIP * KEYS);
        let mut sums = Rows::zeros(QUERIES, self.head_dim);
        let length = log_totals.len();
        for first in (0..length).step_by(QUERIES) {
            let block = first..length.min(first + QUERIES);
            let mut softmax = OnlineSoftmax::default();
            sums.values.fill(0.0);
            self.attend(block.clone(), &mut softmax, &mut scores, &mut sums);
            for (row, query) in block.enumerate() {
                let total = softmax.totals[row];
                let share = if total > 0.0 { 1.0 / total } else { 0.0 };
                let target = row_mut(&mut output, query);
                for (target, sum) in target.iter_mut().zip(sums.at(row)) {
                    *target = sum * share;
                }
                log_totals[query] = softmax.highest[row] + total.ln();
            }
        }
    }

    /// Sums the weighted values of one block of queries over all keys that it sees.
    fn attend(
        &self,
        queries: Range<usize>,
        softmax: &mut OnlineSoftmax,
        scores: &mut [f32],
        sums: &mut Rows,
    ) {
        let strips = Strips::new(self.mask, self.sequence, queries);
        for first in strips.key_blocks() {
            for (index, strip) in strips.all.iter().enumerate() {
                let Some(window) = strip.window(first) else { continue };
                strip.scores(&self.q, self.k.block(first), self.head_dim, &window, scores);
                let row = index * STRIP;
                self.weigh(strip, first, (softmax, row), scores, sums);
                let values = self.v.at(first + window.seen.start);
                Product {
                    out: (sums.at_mut(row), self.v.stride),
                    left: (Left::Rows(&scores[window.seen.start..]), KEYS),
                    right: (values, self.v.stride),
                    shape: [strip.queries.len(), self.v.stride, window.seen.len()],
                    accumulate: true,
                }
                .compute();
            }
        }
    }

    /// Turns a strip's scores into weights and shrinks the sums taken so far accordingly.
    fn weigh(
        &self,
        strip: &Strip,
        first: usize,
        (softmax, row): (&mut OnlineSoftmax, usize),
        scores: &mut [f32],
        sums: &mut Rows,
    ) {
        let stride = sums.stride;
        let rows = scores.chunks_exact_mut(KEYS).zip(sums.at_mut(row).chunks_exact_mut(stride));
        let mut rows = rows.zip(strip.queries.clone()).enumerate();
        vectorized!(for (index, ((scores, sums), query)) in rows.by_ref() {
            let range = self.mask.range(self.sequence, query);
            let scores = cut(scores, first, &range);
            self.mask.hide_documents(self.sequence, query, range.start.max(first), scores);
            let shrink = softmax.weigh(row + index, scores);
            if shrink != 1.0 {
                for sum in sums {
                    *sum *= shrink;
                }
            }
        });
    }
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
