//! Backward: weights are recomputed block by block from the kept log-sum-exp.

use std::ops::Range;

use faer::MatMut;
use faer::prelude::ReborrowMut;
use rayon::prelude::*;

use super::flex_forward::{head_views, row_mut};
use super::mask::Mask;
use super::operation::Geometry;
use super::pack::{Columns, Head, KEYS, Rows};
use super::strips::{QUERIES, STRIP, Strip, Strips, cut};
use super::tile::{Left, Product};
use crate::kernels::flex;
use crate::kernels::simd::{self, vectorized};

/// What forward left, and the gradient of its output.
pub(super) struct Forward<'a> {
    pub(super) q: &'a [f32],
    pub(super) k: &'a [f32],
    pub(super) v: &'a [f32],
    pub(super) output: &'a [f32],
    pub(super) log_totals: &'a [f32],
    pub(super) grad: &'a [f32],
}

/// Returns the gradients of queries, keys and values.
pub(super) fn backward(geometry: &Geometry, mask: &Mask, forward: &Forward<'_>) -> [Vec<f32>; 3] {
    let &Geometry { batch, queries, keys, kv_heads, head_dim, .. } = geometry;
    let group = geometry.group();
    let mut dq = vec![0.0; forward.q.len()];
    let mut dk = vec![0.0; forward.k.len()];
    let mut dv = vec![0.0; forward.v.len()];
    if dq.is_empty() || dk.is_empty() {
        return [dq, dk, dv];
    }
    let split = [batch, kv_heads];
    let of_queries = head_views(&mut dq, batch * queries, split, group * head_dim);
    let of_keys = head_views(&mut dk, batch * keys, split, head_dim);
    let of_values = head_views(&mut dv, batch * keys, split, head_dim);
    let work = of_queries.into_par_iter().zip(of_keys).zip(of_values).enumerate();
    work.for_each(|(index, ((dq, dk), dv))| {
        let (sequence, head) = (index / kv_heads, index % kv_heads);
        KeyHead::new(geometry, mask, forward, sequence, head).backward(dq, dk, dv);
    });
    [dq, dk, dv]
}

/// One key-value head of one sequence, with the query heads that share it.
struct KeyHead<'a> {
    geometry: &'a Geometry,
    mask: &'a Mask,
    forward: &'a Forward<'a>,
    sequence: usize,
    head: usize,
    k: Rows,
    keys: Columns,
    values: Columns,
}

/// A query head of the same sequence.
struct QueryHead<'a> {
    /// Scaled.
    q: Rows,
    grad: Rows,
    log_totals: &'a [f32],
    /// Each row's inner product of output and gradient, which every slope of the row is measured from; whole strips.
    levels: Vec<f32>,
}

/// Gradients of one head, padded.
struct Gradients {
    q: Rows,
    k: Rows,
    v: Rows,
}

/// Weights of one block of queries and keys, and the gradients of their scores: rows are [`KEYS`] apart.
struct Block {
    weights: Vec<f32>,
    slopes: Vec<f32>,
}

impl<'a> KeyHead<'a> {
    fn new(
        geometry: &'a Geometry,
        mask: &'a Mask,
        forward: &'a Forward<'a>,
        sequence: usize,
        head: usize,
    ) -> Self {
        let &Geometry { batch, kv_heads, head_dim, .. } = geometry;
        let of_key = |values| Head::new(values, [batch, kv_heads, head_dim], sequence, head);
        let (k, v) = (of_key(forward.k), of_key(forward.v));
        let (keys, values) = (Columns::copy(k), Columns::copy(v));
        Self { geometry, mask, forward, sequence, head, k: Rows::copy(k, 1.0), keys, values }
    }

    fn backward(&self, mut dq: MatMut<'_, f32>, dk: MatMut<'_, f32>, dv: MatMut<'_, f32>) {
        let &Geometry { queries, keys, head_dim, scale, .. } = self.geometry;
        let zeros = |rows| Rows::zeros(rows, head_dim);
        let mut gradients = Gradients { q: zeros(queries), k: zeros(keys), v: zeros(keys) };
        let size = QUERIES * KEYS;
        let mut block = Block { weights: flex::scratch(size), slopes: flex::scratch(size) };
        for member in 0..self.geometry.group() {
            let head = self.query_head(self.head * self.geometry.group() + member);
            gradients.q.values.fill(0.0);
            for first in (0..queries).step_by(QUERIES) {
                let rows = first..queries.min(first + QUERIES);
                let strips = Strips::new(self.mask, self.sequence, rows);
                for first in strips.key_blocks() {
                    self.block(&head, &strips, first, &mut block, &mut gradients);
                }
            }
            let dq = dq.rb_mut().subcols_mut(member * head_dim, head_dim);
            write(&gradients.q, scale, dq);
        }
        write(&gradients.k, 1.0, dk);
        write(&gradients.v, 1.0, dv);
    }

    fn query_head(&self, head: usize) -> QueryHead<'_> {
        let &Geometry { batch, queries, heads, head_dim, scale, .. } = self.geometry;
        let of_query = |values| Head::new(values, [batch, heads, head_dim], self.sequence, head);
        let (output, grad) = (of_query(self.forward.output), of_query(self.forward.grad));
        let levels = (0..queries).step_by(STRIP).flat_map(|first| levels(output, grad, first));
        let start = (self.sequence * heads + head) * queries;
        QueryHead {
            q: Rows::copy(of_query(self.forward.q), scale),
            grad: Rows::copy(grad, 1.0),
            log_totals: &self.forward.log_totals[start..start + queries],
            levels: levels.collect(),
        }
    }

    /// Adds what one block of queries and keys contributes to the three gradients.
    fn block(
        &self,
        head: &QueryHead<'_>,
        strips: &Strips,
        first: usize,
        block: &mut Block,
        gradients: &mut Gradients,
    ) {
        let width = self.geometry.head_dim;
        let mut touched: Option<(Range<usize>, Range<usize>)> = None;
        for (index, strip) in strips.all.iter().enumerate() {
            let own = index * STRIP * KEYS;
            let (weights, slopes) = (&mut block.weights[own..], &mut block.slopes[own..]);
            let Some(window) = strip.window(first) else {
                let own = strip.queries.len() * KEYS;
                weights[..own].fill(0.0);
                slopes[..own].fill(0.0);
                continue;
            };
            strip.scores(&head.q, self.keys.block(first), width, &window, weights);
            strip.scores(&head.grad, self.values.block(first), width, &window, slopes);
            self.differentiate(head, strip, first, (weights, slopes));
            let rows = index * STRIP..index * STRIP + strip.queries.len();
            touched = Some(match touched {
                Some((all, seen)) => (hull(&all, &rows), hull(&seen, &window.seen)),
                None => (rows, window.seen.clone()),
            });
            Product {
                out: (gradients.q.at_mut(strip.queries.start), self.k.stride),
                left: (Left::Rows(&slopes[window.seen.start..]), KEYS),
                right: (self.k.at(first + window.seen.start), self.k.stride),
                shape: [strip.queries.len(), self.k.stride, window.seen.len()],
                accumulate: true,
            }
            .compute();
        }
        let Some((rows, seen)) = touched else { return };
        let query = strips.all[0].queries.start + rows.start;
        let add = |out: &mut Rows, left: &[f32], right: &Rows| {
            Product {
                out: (out.at_mut(first + seen.start), right.stride),
                left: (Left::Columns(&left[rows.start * KEYS + seen.start..]), KEYS),
                right: (right.at(query), right.stride),
                shape: [seen.len(), right.stride, rows.len()],
                accumulate: true,
            }
            .compute();
        };
        add(&mut gradients.v, &block.weights, &head.grad);
        add(&mut gradients.k, &block.slopes, &head.q);
    }

    /// Turns scores into weights and the gradients of weights into those of the unscaled scores.
    fn differentiate(
        &self,
        head: &QueryHead<'_>,
        strip: &Strip,
        first: usize,
        (weights, slopes): (&mut [f32], &mut [f32]),
    ) {
        let rows = weights.chunks_exact_mut(KEYS).zip(slopes.chunks_exact_mut(KEYS));
        let mut rows = rows.zip(strip.queries.clone());
        vectorized!(for ((weights, slopes), query) in rows.by_ref() {
            let range = self.mask.range(self.sequence, query);
            let weights = cut(weights, first, &range);
            let slopes = cut(slopes, first, &range);
            self.mask.hide_documents(self.sequence, query, range.start.max(first), weights);
            let log_total = head.log_totals[query];
            if log_total == f32::NEG_INFINITY {
                weights.fill(0.0);
                slopes.fill(0.0);
                continue;
            }
            let level = head.levels[query];
            for (weight, slope) in weights.iter_mut().zip(slopes) {
                *weight = simd::exp(*weight - log_total);
                *slope = *weight * (*slope - level);
            }
        });
    }
}

/// Returns the inner products of a strip's rows.
///
/// Each is summed in the order in which a product's tile is: the slope of a query that sees one key is then exactly zero.
fn levels(output: Head<'_>, grad: Head<'_>, first: usize) -> [f32; STRIP] {
    let mut levels = [0.0; STRIP];
    let row = |i: usize| (first + i).min(output.rows - 1);
    let rows: [_; STRIP] = std::array::from_fn(|i| (output.row(row(i)), grad.row(row(i))));
    vectorized!(for column in 0..output.width {
        for (level, (output, grad)) in levels.iter_mut().zip(&rows) {
            *level = grad[column].mul_add(output[column], *level);
        }
    });
    levels
}

fn hull(a: &Range<usize>, b: &Range<usize>) -> Range<usize> {
    a.start.min(b.start)..a.end.max(b.end)
}

/// Writes padded rows, multiplied by `factor`.
fn write(rows: &Rows, factor: f32, mut out: MatMut<'_, f32>) {
    for row in 0..out.nrows() {
        for (out, value) in row_mut(&mut out, row).iter_mut().zip(rows.at(row)) {
            *out = value * factor;
        }
    }
}
