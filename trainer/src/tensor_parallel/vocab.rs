//! A vocabulary in parts: lookup, and logits put together.

use std::ops::Range;

use burn::tensor::{Int, Tensor};

use crate::comm::ProcessGroup;
use crate::comm::differentiable::{Consumer, all_gather};
use crate::kernels;

/// Looks up the ids whose rows are here; the vectors of others are zero, so that the sum over the
/// ranks is the lookup.
///
/// # Shapes
///
/// `ids` is `[b, s]`, `weight` holds the rows `own`; the result is `[b, s, h]`.
pub(super) fn lookup(ids: Tensor<2, Int>, weight: Tensor<2>, own: &Range<usize>) -> Tensor<3> {
    let local = ids - own.start as i64;
    let foreign =
        local.clone().lower_elem(0).bool_or(local.clone().greater_equal_elem(own.len() as i64));
    // Any row that exists will do: what it gives is masked, in forward and in backward.
    let vectors = kernels::embedding(weight, local.mask_fill(foreign.clone(), 0));
    let [b, s, h] = vectors.dims();
    vectors.mask_fill(foreign.reshape([b, s, 1]).expand([b, s, h]), 0.0)
}

/// Puts the logits of all ranks together, for consumers that compute the same on every rank.
///
/// # Shapes
///
/// `[b, s, own part]` to `[b, s, vocabulary]`. Parts that are shorter than others travel with
/// zeros, which are dropped on arrival.
pub(super) fn gather_logits(
    local: Tensor<3>,
    vocabulary: usize,
    group: &ProcessGroup,
) -> Tensor<3> {
    let chunk = vocabulary.div_ceil(group.size());
    let [b, s, own] = local.dims();
    let local = if own == chunk {
        local
    } else {
        let missing = Tensor::zeros([b, s, chunk - own], (&local.device(), local.dtype()));
        Tensor::cat(vec![local, missing], 2)
    };
    all_gather(local, 2, Consumer::Replicated, group).narrow(2, 0, vocabulary)
}
