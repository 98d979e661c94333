//! Attention of a block composed of tensor operations: the scores of every pair of the block exist at once.

use burn::tensor::{Bool, Device, Int, Tensor};

use super::options::AttentionOptions;
use crate::kernels::half_precision::widened;

/// Stands for minus infinity in a masked score: finite, so that a fully masked row stays a number.
const MASKED: f64 = -1.0e30;

/// Returns the output and the log-sum-exp of each query's scores, `[batch, heads, queries]`.
pub(super) fn forward(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    options: &AttentionOptions,
) -> (Tensor<4>, Tensor<3>) {
    let groups = q.dims()[2] / k.dims()[2];
    let v = grouped(heads_first(v), groups);
    let (scores, mask) = scores(heads_first(q), grouped(heads_first(k), groups), options);
    let (weights, total, highest) = exponentials(scores, mask);
    let log_totals = (total.clone().log() + highest).squeeze_dim::<3>(3);
    let weights = weights / total.clamp_min(1.0e-30);
    let dtype = v.dtype();
    (heads_first(weights.cast(dtype).matmul(v)), log_totals)
}

/// Returns the gradients of queries, keys and values, given what forward returned.
pub(super) fn backward(
    [q, k, v]: [Tensor<4>; 3],
    output: Tensor<4>,
    log_totals: Tensor<3>,
    grad: Tensor<4>,
    options: &AttentionOptions,
) -> [Tensor<4>; 3] {
    let (groups, scale) = (q.dims()[2] / k.dims()[2], options.scale(q.dims()[3]));
    let dtype = q.dtype();
    let level = heads_first((widened(output) * widened(grad.clone())).sum_dim(3));
    let [q, grad] = [q, grad].map(heads_first);
    let [k, v] = [k, v].map(|x| grouped(heads_first(x), groups));
    let (scores, mask) = scores(q.clone(), k.clone(), options);
    let mut weights = (scores - log_totals.unsqueeze_dim::<4>(3)).exp();
    if let Some(mask) = mask {
        weights = weights.mask_fill(mask, 0.0);
    }
    let slopes = widened(grad.clone().matmul(v.swap_dims(2, 3))) - level;
    let slopes = (weights.clone() * slopes * scale).cast(dtype);
    let weights = weights.cast(dtype);
    let dq = slopes.clone().matmul(k);
    let dk = ungrouped(slopes.swap_dims(2, 3).matmul(q), groups);
    let dv = ungrouped(weights.swap_dims(2, 3).matmul(grad), groups);
    [dq, dk, dv].map(heads_first)
}

/// Swaps `[batch, sequence, heads, head_dim]` and `[batch, heads, sequence, head_dim]`.
fn heads_first(x: Tensor<4>) -> Tensor<4> {
    x.permute([0, 2, 1, 3])
}

/// Returns the scaled scores, masked, and the mask; half-precision scores are widened, as exponentials need.
fn scores(
    q: Tensor<4>,
    k: Tensor<4>,
    options: &AttentionOptions,
) -> (Tensor<4>, Option<Tensor<4, Bool>>) {
    let [batch, heads, queries, head_dim] = q.dims();
    let keys = k.dims()[2];
    let scores = widened(q.matmul(k.swap_dims(2, 3))) * options.scale(head_dim);
    let mask = hidden(options, batch, queries, keys, &scores.device())
        .map(|mask| mask.expand([batch, heads, queries, keys]));
    match mask {
        Some(mask) => (scores.mask_fill(mask.clone(), MASKED), Some(mask)),
        None => (scores, None),
    }
}

/// Sums the gradients of the query heads that share a key-value head.
fn ungrouped(x: Tensor<4>, groups: usize) -> Tensor<4> {
    let [batch, heads, length, head_dim] = x.dims();
    x.reshape([batch, heads / groups, groups, length, head_dim]).sum_dim(2).squeeze_dim::<4>(2)
}

/// Repeats each key-value head for the query heads of its group.
fn grouped(x: Tensor<4>, groups: usize) -> Tensor<4> {
    if groups == 1 {
        return x;
    }
    let [batch, heads, length, head_dim] = x.dims();
    x.unsqueeze_dim::<5>(2).expand([batch, heads, groups, length, head_dim]).reshape([
        batch,
        heads * groups,
        length,
        head_dim,
    ])
}

/// Returns the exponentials of the scores above each row's highest, their sum, and that highest score.
fn exponentials(
    scores: Tensor<4>,
    mask: Option<Tensor<4, Bool>>,
) -> (Tensor<4>, Tensor<4>, Tensor<4>) {
    let highest = scores.clone().detach().max_dim(3);
    let mut weights = (scores - highest.clone()).exp();
    if let Some(mask) = mask {
        weights = weights.mask_fill(mask, 0.0);
    }
    let total = weights.clone().sum_dim(3);
    (weights, total, highest)
}

/// Builds the mask of pairs that must not attend, `[batch or 1, 1, queries, keys]`.
fn hidden(
    options: &AttentionOptions,
    batch: usize,
    queries: usize,
    keys: usize,
    device: &Device,
) -> Option<Tensor<4, Bool>> {
    let mut mask: Option<Tensor<4, Bool>> = None;
    let mut hide = |pairs: Tensor<4, Bool>| {
        mask = Some(match mask.take() {
            Some(mask) => mask.bool_or(pairs),
            None => pairs,
        });
    };
    let (first_query, first_key) = (options.query_offset as i64, options.key_offset as i64);
    let rows = Tensor::<1, Int>::arange(first_query..first_query + queries as i64, device);
    let columns = Tensor::<1, Int>::arange(first_key..first_key + keys as i64, device);
    let rows = rows.reshape([1, 1, queries, 1]).expand([batch, 1, queries, keys]);
    let columns = columns.reshape([1, 1, 1, keys]).expand([batch, 1, queries, keys]);
    let distance = rows - columns;
    if options.causal {
        hide(distance.clone().lower_elem(0));
    }
    if let Some(window) = options.window {
        hide(distance.abs().greater_equal_elem(window as i64));
    }
    if let Some(documents) = &options.documents {
        let of_keys = options.key_documents.as_ref().unwrap_or(documents).clone();
        let of_queries = documents.clone().reshape([batch, 1, queries, 1]);
        let of_keys = of_keys.reshape([batch, 1, 1, keys]);
        let shape = [batch, 1, queries, keys];
        hide(of_queries.expand(shape).not_equal(of_keys.expand(shape)));
    }
    mask
}
