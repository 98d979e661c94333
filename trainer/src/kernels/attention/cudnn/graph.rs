//! The passes of attention as graphs that cuDNN has fused kernels for.
//!
//! Tensors lie as `[batch, sequence, heads, head_dim]` and are described as `[batch, heads, sequence, head_dim]`. With
//! scores `S = scale Q K^T`, `-inf` where a key is not seen, `L` their log-sum-exps and `P = exp(S - L)`:
//!
//! - forward: `O = P V`
//! - backward: `dV = P^T dO`, `dS = P (dO V^T - rowsum(dO O))`, `dQ = scale dS K`, `dK = scale dS^T Q`
//!
//! Kernels are found by the pattern: which operations there are, their order and their types.
//!
//! # References
//!
//! `FlashAttention-2`, arXiv:2307.08691, algorithms 1 and 2; NVIDIA, "cuDNN Graph API", fused attention.

use super::{MaskKind, Problem};
use crate::kernels::cuda::cudnn::{
    ADD, COMPARE_GE, DIVIDE, EXP, Element, Fold, Graph, IDENTITY, LOG, MULTIPLY, SUBTRACT, Tensor,
    packed,
};

// Numbers of the tensors.
pub(super) const Q: i64 = 1;
pub(super) const K: i64 = 2;
pub(super) const V: i64 = 3;
pub(super) const OUTPUT: i64 = 4;
pub(super) const LOG_TOTALS: i64 = 5;
pub(super) const GRAD: i64 = 6;
pub(super) const DQ: i64 = 7;
pub(super) const DK: i64 = 8;
pub(super) const DV: i64 = 9;
pub(super) const DQ_SUM: i64 = 10;
pub(super) const SUMS: i64 = 11;
pub(super) const SCALE: i64 = 12;

/// Sizes and strides.
type Layout = ([i64; 4], [i64; 4]);

const F32: Element = Element::F32;

fn plain(dims: [i64; 4]) -> Layout {
    (dims, packed(dims))
}

/// The sizes of a problem as cuDNN counts.
#[derive(Clone, Copy)]
struct Sizes {
    batch: i64,
    heads: i64,
    kv_heads: i64,
    queries: i64,
    keys: i64,
    head_dim: i64,
}

impl Sizes {
    fn new(problem: &Problem) -> Self {
        let Problem { batch, heads, kv_heads, queries, keys, head_dim, .. } = *problem;
        let [batch, heads, kv_heads] = [batch, heads, kv_heads].map(|size| size as i64);
        let [queries, keys, head_dim] = [queries, keys, head_dim].map(|size| size as i64);
        Self { batch, heads, kv_heads, queries, keys, head_dim }
    }

    fn rows(self, heads: i64, length: i64) -> Layout {
        let Self { batch, head_dim, .. } = self;
        let strides = [length * heads * head_dim, head_dim, heads * head_dim, 1];
        ([batch, heads, length, head_dim], strides)
    }

    fn of_queries(self) -> Layout {
        self.rows(self.heads, self.queries)
    }

    fn of_keys(self) -> Layout {
        self.rows(self.kv_heads, self.keys)
    }

    /// As [`Self::of_keys`] with the last two dimensions exchanged.
    fn of_keys_transposed(self) -> Layout {
        let ([a, b, c, d], [e, f, g, h]) = self.of_keys();
        ([a, b, d, c], [e, f, h, g])
    }

    /// One number for each query and head.
    fn statistics(self) -> Layout {
        plain([self.batch, self.heads, self.queries, 1])
    }

    fn scores(self) -> Layout {
        plain([self.batch, self.heads, self.queries, self.keys])
    }

    /// The memory order of scores, seen with queries last.
    fn scores_transposed(self) -> Layout {
        let ([a, b, c, d], [e, f, g, h]) = self.scores();
        ([a, b, d, c], [e, f, h, g])
    }
}

/// Hides the scores of keys that a query does not see.
fn hide(graph: &mut Graph, problem: &Problem, scores: Tensor) -> Result<Tensor, String> {
    if problem.mask == MaskKind::Full {
        return Ok(scores);
    }
    let mut row = graph.position(scores, 2)?;
    let column = graph.position(scores, 3)?;
    if problem.mask == MaskKind::BottomRight {
        let keys = graph.integer(problem.keys as i32)?;
        row = graph.whole(ADD, row, keys, Element::I32)?;
        let queries = graph.integer(problem.queries as i32)?;
        row = graph.whole(SUBTRACT, row, queries, Element::I32)?;
    }
    let is_seen = graph.whole(COMPARE_GE, row, column, Element::Bool)?;
    let hidden = graph.constant(f32::NEG_INFINITY)?;
    graph.choose(is_seen, scores, hidden)
}

/// Describes the forward pass, which also gives the log-sum-exps.
pub(super) fn forward(problem: &Problem, graph: &mut Graph) -> Result<(), String> {
    let (sizes, element) = (Sizes::new(problem), problem.element);
    let q = graph.tensor(Q, sizes.of_queries(), element)?;
    let k = graph.tensor(K, sizes.of_keys_transposed(), element)?;
    let v = graph.tensor(V, sizes.of_keys(), element)?;
    let output = graph.tensor(OUTPUT, sizes.of_queries(), element)?;
    let log_totals = graph.tensor(LOG_TOTALS, sizes.statistics(), F32)?;
    let scale = graph.number(SCALE)?;
    let scores = graph.passing(sizes.scores(), F32)?;
    graph.multiply(q, k, scores)?;
    let scores = graph.pointwise(MULTIPLY, scores, Some(scale))?;
    let scores = hide(graph, problem, scores)?;
    let highest = graph.passing(sizes.statistics(), F32)?;
    graph.fold(Fold::Highest, scores, highest)?;
    let shifted = graph.pointwise(SUBTRACT, scores, Some(highest))?;
    let weights = graph.pointwise(EXP, shifted, None)?;
    let total = graph.passing(sizes.statistics(), F32)?;
    graph.fold(Fold::Sum, weights, total)?;
    let logarithm = graph.pointwise(LOG, total, None)?;
    graph.pointwise_to(ADD, highest, Some(logarithm), log_totals)?;
    let shares = graph.passing(sizes.scores(), element)?;
    graph.pointwise_to(DIVIDE, weights, Some(total), shares)?;
    graph.multiply(shares, v, output)
}

/// Describes the backward pass.
pub(super) fn backward(problem: &Problem, graph: &mut Graph) -> Result<(), String> {
    let (sizes, element) = (Sizes::new(problem), problem.element);
    let q = graph.tensor(Q, sizes.of_queries(), element)?;
    let k = graph.tensor(K, sizes.of_keys_transposed(), element)?;
    let v = graph.tensor(V, sizes.of_keys_transposed(), element)?;
    let output = graph.tensor(OUTPUT, sizes.of_queries(), element)?;
    let grad = graph.tensor(GRAD, sizes.of_queries(), element)?;
    let log_totals = graph.tensor(LOG_TOTALS, sizes.statistics(), F32)?;
    let scale = graph.number(SCALE)?;
    let sums = row_sums(graph, sizes, grad, output)?;

    let scores = graph.passing(sizes.scores(), F32)?;
    graph.multiply(q, k, scores)?;
    let scores = graph.pointwise(MULTIPLY, scores, Some(scale))?;
    let shifted = graph.pointwise(SUBTRACT, scores, Some(log_totals))?;
    let shifted = hide(graph, problem, shifted)?;
    let shares = graph.pointwise(EXP, shifted, None)?;
    let dv = graph.tensor(DV, sizes.of_keys(), element)?;
    key_gradient(graph, problem, shares, grad, dv)?;

    let products = graph.passing(sizes.scores(), F32)?;
    graph.multiply(grad, v, products)?;
    let centered = graph.pointwise(SUBTRACT, products, Some(sums))?;
    let weighted = graph.pointwise(MULTIPLY, centered, Some(shares))?;
    let d_scores = graph.pointwise(MULTIPLY, weighted, Some(scale))?;
    let dk = graph.tensor(DK, sizes.of_keys(), element)?;
    key_gradient(graph, problem, d_scores, q, dk)?;
    query_gradient(graph, sizes, element, d_scores, k)
}

/// Adds the sum over each row of `grad output`.
fn row_sums(
    graph: &mut Graph,
    sizes: Sizes,
    grad: Tensor,
    output: Tensor,
) -> Result<Tensor, String> {
    let products = graph.passing(plain(grad.dims), F32)?;
    graph.pointwise_to(MULTIPLY, grad, Some(output), products)?;
    let folded = graph.passing(sizes.statistics(), F32)?;
    graph.fold(Fold::Sum, products, folded)?;
    // What follows reads the sums from memory; the pattern has a multiplication in front of that.
    let sums = graph.tensor(SUMS, sizes.statistics(), F32)?;
    let one = graph.constant(1.0)?;
    graph.pointwise_to(MULTIPLY, folded, Some(one), sums)?;
    Ok(sums)
}

/// Adds `left^T right`, summed over the query heads that share a key-value head.
fn key_gradient(
    graph: &mut Graph,
    problem: &Problem,
    left: Tensor,
    right: Tensor,
    gradient: Tensor,
) -> Result<(), String> {
    let (sizes, element) = (Sizes::new(problem), problem.element);
    let transposed = graph.passing(sizes.scores_transposed(), element)?;
    graph.view(left, transposed)?;
    if sizes.heads == sizes.kv_heads {
        return graph.multiply(transposed, right, gradient);
    }
    let Sizes { batch, heads, keys, head_dim, .. } = sizes;
    let of_heads = graph.passing(plain([batch, heads, keys, head_dim]), element)?;
    graph.multiply(transposed, right, of_heads)?;
    graph.fold(Fold::Sum, of_heads, gradient)
}

/// Adds `d_scores K`, summed in `f32` in memory, then rounded.
fn query_gradient(
    graph: &mut Graph,
    sizes: Sizes,
    element: Element,
    d_scores: Tensor,
    k: Tensor,
) -> Result<(), String> {
    let k_rows = graph.passing(sizes.of_keys(), element)?;
    graph.view(k, k_rows)?;
    let Sizes { batch, heads, queries, head_dim, .. } = sizes;
    let sum = graph.tensor(DQ_SUM, plain([batch, heads, queries, head_dim]), F32)?;
    graph.multiply(d_scores, k_rows, sum)?;
    let dq = graph.tensor(DQ, sizes.of_queries(), element)?;
    graph.pointwise_to(IDENTITY, sum, None, dq)
}
