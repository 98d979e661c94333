//! Backward: weights are recomputed block by block from the kept log-sum-exp.

use std::ops::Range;

use faer::linalg::matmul::matmul as multiply;
use faer::prelude::ReborrowMut;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use super::flex_forward::{KEYS, QUERIES, cut, head_view, head_views, score_block};
use super::mask::Mask;
use super::operation::Geometry;
use crate::kernels::simd::{self, vectorized};
use crate::kernels::{flex, matmul};

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
        let task = KeyHead { geometry, mask, forward, sequence: index / kv_heads };
        task.backward(index % kv_heads, dq, dk, dv);
    });
    [dq, dk, dv]
}

/// One key-value head of one sequence, with the query heads that share it.
struct KeyHead<'a> {
    geometry: &'a Geometry,
    mask: &'a Mask,
    forward: &'a Forward<'a>,
    sequence: usize,
}

/// A query head's views of one sequence.
struct QueryHead<'a> {
    q: MatRef<'a, f32>,
    k: MatRef<'a, f32>,
    v: MatRef<'a, f32>,
    output: MatRef<'a, f32>,
    grad: MatRef<'a, f32>,
    log_totals: &'a [f32],
}

impl KeyHead<'_> {
    fn backward(
        &self,
        kv_head: usize,
        mut dq: MatMut<'_, f32>,
        mut dk: MatMut<'_, f32>,
        mut dv: MatMut<'_, f32>,
    ) {
        let &Geometry { queries, head_dim, .. } = self.geometry;
        let group = self.geometry.group();
        let mut buffers = (flex::scratch(QUERIES * KEYS), flex::scratch(QUERIES * KEYS));
        for member in 0..group {
            let head = self.query_head(kv_head, kv_head * group + member);
            let mut dq = dq.rb_mut().subcols_mut(member * head_dim, head_dim);
            for first in (0..queries).step_by(QUERIES) {
                let block = first..queries.min(first + QUERIES);
                let dq = dq.rb_mut().subrows_mut(first, block.len());
                self.block(&head, block, &mut buffers, dq, dk.rb_mut(), dv.rb_mut());
            }
        }
    }

    fn query_head(&self, kv_head: usize, head: usize) -> QueryHead<'_> {
        let &Geometry { batch, queries, heads, kv_heads, head_dim, .. } = self.geometry;
        let forward = self.forward;
        let of_query = |values| head_view(values, [batch, heads, head_dim], self.sequence, head);
        let of_key =
            |values| head_view(values, [batch, kv_heads, head_dim], self.sequence, kv_head);
        let start = (self.sequence * heads + head) * queries;
        QueryHead {
            q: of_query(forward.q),
            k: of_key(forward.k),
            v: of_key(forward.v),
            output: of_query(forward.output),
            grad: of_query(forward.grad),
            log_totals: &forward.log_totals[start..start + queries],
        }
    }

    /// Adds what one block of queries contributes to the three gradients.
    fn block(
        &self,
        head: &QueryHead<'_>,
        queries: Range<usize>,
        (weights, slopes): &mut (Vec<f32>, Vec<f32>),
        mut dq: MatMut<'_, f32>,
        mut dk: MatMut<'_, f32>,
        mut dv: MatMut<'_, f32>,
    ) {
        let count = queries.len();
        let [q, grad, output] =
            [head.q, head.grad, head.output].map(|view| view.subrows(queries.start, count));
        let levels = levels(output, grad);
        let seen = self.mask.block_range(self.sequence, queries.clone());
        for first in seen.clone().step_by(KEYS) {
            let keys = first..seen.end.min(first + KEYS);
            let size = count * keys.len();
            let (weights, slopes) = (&mut weights[..size], &mut slopes[..size]);
            let (k, v) = (head.k.subrows(first, keys.len()), head.v.subrows(first, keys.len()));
            score_block(weights, q, k, self.geometry.scale);
            score_block(slopes, grad, v, 1.0);
            self.differentiate(head, &queries, &keys, &levels, weights, slopes);
            let weights = matmul::rows(weights, count, keys.len());
            let slopes = matmul::rows(slopes, count, keys.len());
            let dv = dv.rb_mut().subrows_mut(first, keys.len());
            let dk = dk.rb_mut().subrows_mut(first, keys.len());
            multiply(dv, Accum::Add, weights.transpose(), grad, 1.0, Par::Seq);
            multiply(dk, Accum::Add, slopes.transpose(), q, 1.0, Par::Seq);
            multiply(dq.rb_mut(), Accum::Add, slopes, k, 1.0, Par::Seq);
        }
    }

    /// Turns scores into weights and the gradients of weights into those of the unscaled scores.
    fn differentiate(
        &self,
        head: &QueryHead<'_>,
        queries: &Range<usize>,
        keys: &Range<usize>,
        levels: &[f32; QUERIES],
        weights: &mut [f32],
        slopes: &mut [f32],
    ) {
        let scale = self.geometry.scale;
        vectorized!({
            let rows =
                weights.chunks_exact_mut(keys.len()).zip(slopes.chunks_exact_mut(keys.len()));
            for (row, (weights, slopes)) in rows.enumerate() {
                let query = queries.start + row;
                let range = self.mask.range(self.sequence, query);
                let weights = cut(weights, keys, &range);
                let slopes = cut(slopes, keys, &range);
                self.mask.hide_documents(
                    self.sequence,
                    query,
                    range.start.max(keys.start),
                    weights,
                );
                let log_total = head.log_totals[query];
                if log_total == f32::NEG_INFINITY {
                    weights.fill(0.0);
                    slopes.fill(0.0);
                    continue;
                }
                let level = levels[row];
                for (weight, slope) in weights.iter_mut().zip(slopes) {
                    *weight = simd::exp(*weight - log_total);
                    *slope = *weight * (*slope - level) * scale;
                }
            }
        });
    }
}

/// Returns each row's inner product of output and gradient, which every slope of the row is measured from.
fn levels(output: MatRef<'_, f32>, grad: MatRef<'_, f32>) -> [f32; QUERIES] {
    let mut levels = [0.0; QUERIES];
    vectorized!(for (row, level) in levels.iter_mut().enumerate().take(output.nrows()) {
        let output = output.row(row).try_as_row_major().expect("views of heads are row-major");
        let grad = grad.row(row).try_as_row_major().expect("views of heads are row-major");
        *level = simd::dot(output.as_slice(), grad.as_slice());
    });
    levels
}
