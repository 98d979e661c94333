//! The differentiable collectives as models and styles call them.
//!
//! Bytes are per rank, for ring algorithms over `n` ranks and an input of `b` bytes.

use burn::tensor::Tensor;

use super::operation::{Pair, apply};
use super::transfer::Transfer;
use crate::comm::ProcessGroup;

/// Says what the ranks do with a replicated result, and so what its gradient is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Consumer {
    /// All ranks compute the same from it: each has the whole gradient.
    Replicated,
    /// Each rank computes something of its own from it: the gradient is the sum of theirs.
    Distinct,
}

fn run<const D: usize>(
    x: Tensor<D>,
    group: &ProcessGroup,
    forward: Transfer,
    backward: Transfer,
) -> Tensor<D> {
    if group.size() == 1 {
        return x;
    }
    apply(x, Pair { forward, backward, group: group.clone() })
}

/// Hands a replicated value to ranks that compute different things from it (Megatron's *f*).
///
/// # Placements
///
/// Before and after: the same value on every rank. The gradient of the result is a term per rank,
/// that of `x` the sum.
///
/// # Communication
///
/// Forward none; backward one all-reduce, `2 (n - 1) / n b`.
pub fn copy<const D: usize>(x: Tensor<D>, group: &ProcessGroup) -> Tensor<D> {
    run(x, group, Transfer::Keep, Transfer::Sum)
}

/// Sums over the ranks (Megatron's *g* for a replicated consumer).
///
/// # Placements
///
/// Before: a term on every rank. After: the sum, bitwise the same on every rank.
///
/// # Communication
///
/// Forward one all-reduce, `2 (n - 1) / n b`; backward none for a replicated consumer and the same
/// for distinct ones.
pub fn all_reduce<const D: usize>(
    x: Tensor<D>,
    consumer: Consumer,
    group: &ProcessGroup,
) -> Tensor<D> {
    let backward = match consumer {
        Consumer::Replicated => Transfer::Keep,
        Consumer::Distinct => Transfer::Sum,
    };
    run(x, group, Transfer::Sum, backward)
}

/// Concatenates the parts of all ranks along `dim`, in the order of the group.
///
/// # Placements
///
/// Before: a part on every rank, all of one size. After: the whole on every rank.
///
/// # Communication
///
/// Forward one all-gather, `(n - 1) b`; backward nothing for a replicated consumer and one
/// reduce-scatter of the same volume for distinct ones.
pub fn all_gather<const D: usize>(
    x: Tensor<D>,
    dim: usize,
    consumer: Consumer,
    group: &ProcessGroup,
) -> Tensor<D> {
    let backward = match consumer {
        Consumer::Replicated => Transfer::Slice(dim),
        Consumer::Distinct => Transfer::SumScatter(dim),
    };
    run(x, group, Transfer::Gather(dim), backward)
}

/// Sums over the ranks and keeps the own part along `dim`.
///
/// # Placements
///
/// Before: a term in full shape on every rank. After: an equal part of the sum. `n` must divide the
/// dimension.
///
/// # Communication
///
/// Forward one reduce-scatter, `(n - 1) / n b`; backward one all-gather of the same volume.
pub fn reduce_scatter<const D: usize>(x: Tensor<D>, dim: usize, group: &ProcessGroup) -> Tensor<D> {
    run(x, group, Transfer::SumScatter(dim), Transfer::Gather(dim))
}

/// Cuts along `split_dim`, gives each rank its part and concatenates what comes along `concat_dim`.
///
/// # Placements
///
/// Before: a part along `concat_dim`. After: a part along `split_dim`.
///
/// # Communication
///
/// One all-to-all each way, `(n - 1) / n b`.
pub fn all_to_all<const D: usize>(
    x: Tensor<D>,
    split_dim: usize,
    concat_dim: usize,
    group: &ProcessGroup,
) -> Tensor<D> {
    run(
        x,
        group,
        Transfer::Exchange(split_dim, concat_dim),
        Transfer::Exchange(concat_dim, split_dim),
    )
}

/// Keeps the own part along `dim` of a value that every rank computed.
///
/// # Placements
///
/// Before: the same value on every rank. After: an equal part. The gradient of `x` is whole on
/// every rank.
///
/// # Communication
///
/// Forward none; backward one all-gather, `(n - 1) / n b`.
pub fn slice<const D: usize>(x: Tensor<D>, dim: usize, group: &ProcessGroup) -> Tensor<D> {
    run(x, group, Transfer::Slice(dim), Transfer::Gather(dim))
}

/// Gives every rank the value of `root`; the shapes are equal on all ranks.
///
/// # Placements
///
/// Before: a value on `root`, anything elsewhere. After: that value everywhere, for distinct
/// consumers.
///
/// # Communication
///
/// Forward one broadcast, backward one reduce to `root`; the gradient is zero elsewhere.
pub fn broadcast<const D: usize>(x: Tensor<D>, root: usize, group: &ProcessGroup) -> Tensor<D> {
    run(x, group, Transfer::Broadcast(root), Transfer::Reduce(root))
}

/// Sums over the ranks on `root`; the others get zeros.
///
/// # Communication
///
/// Forward one reduce, backward one broadcast from `root`. Every rank's loss must depend on its
/// result, so that all take part.
pub fn reduce<const D: usize>(x: Tensor<D>, root: usize, group: &ProcessGroup) -> Tensor<D> {
    run(x, group, Transfer::Reduce(root), Transfer::Broadcast(root))
}

/// Gives every rank its part along dimension 0 of the value of `root`; the others pass an empty
/// tensor of the same other dimensions.
///
/// # Communication
///
/// Forward one scatter, backward one gather to `root`.
pub fn scatter<const D: usize>(x: Tensor<D>, root: usize, group: &ProcessGroup) -> Tensor<D> {
    run(x, group, Transfer::Scatter(root), Transfer::Collect(root))
}

/// Concatenates the parts of all ranks along dimension 0 on `root`; the others get an empty tensor.
///
/// # Communication
///
/// Forward one gather, backward one scatter from `root`. The sum of the empty result must join the
/// loss of the other ranks, so that their backward passes take part.
pub fn gather<const D: usize>(x: Tensor<D>, root: usize, group: &ProcessGroup) -> Tensor<D> {
    run(x, group, Transfer::Collect(root), Transfer::Scatter(root))
}

/// Hands a value to member `to`, which calls [`recv`], and returns an empty tensor whose sum must
/// join this rank's loss.
///
/// # Communication
///
/// Forward one message of `b`; backward receives the gradient of the same size.
pub fn send<const D: usize>(x: Tensor<D>, to: usize, tag: u64, group: &ProcessGroup) -> Tensor<D> {
    apply(
        x,
        Pair {
            forward: Transfer::Send(to, tag),
            backward: Transfer::Receive(to, tag),
            group: group.clone(),
        },
    )
}

/// Takes the value that member `from` sends under `tag`.
///
/// `anchor` is an empty tensor of that rank which requires a gradient: it ties the operation to
/// this rank's graph.
///
/// # Communication
///
/// Forward one message; backward sends the gradient of the same size.
pub fn recv<const D: usize>(
    anchor: Tensor<D>,
    from: usize,
    tag: u64,
    group: &ProcessGroup,
) -> Tensor<D> {
    apply(
        anchor,
        Pair {
            forward: Transfer::Receive(from, tag),
            backward: Transfer::Send(from, tag),
            group: group.clone(),
        },
    )
}
