//! [`redistribute`]: from any placement to any other.

use burn::tensor::Tensor;

use super::functions::{Consumer, all_gather, all_reduce, all_to_all, copy, reduce_scatter, slice};
use super::operation::{Pair, apply};
use super::transfer::Transfer;
use crate::comm::ProcessGroup;
use crate::mesh::{Placement, ReduceKind};

/// Says that a change of placement has no gradient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("`{from}` to `{to}` is not a linear map, so it has no gradient; use the plain collective")]
pub struct NotDifferentiable {
    /// Placement before.
    pub from: Placement,
    /// Placement after.
    pub to: Placement,
}

/// Changes how a tensor lies over the ranks of a group; the gradient takes the way back.
///
/// `consumer` says who uses a result that is replicated; for others it has no meaning. The gradient
/// of a part is a part, that of a term is whole.
///
/// # Communication
///
/// | from, to | forward | backward |
/// | --- | --- | --- |
/// | `R`, `R` | none | none, or all-reduce for distinct consumers |
/// | `R`, `S(i)` | local slice | all-gather |
/// | `R`, `P` | none | none |
/// | `S(i)`, `R` | all-gather | local slice, or reduce-scatter for distinct consumers |
/// | `S(i)`, `S(j)` | all-to-all | all-to-all |
/// | `S(i)`, `P` | none | local slice |
/// | `P`, `R` | all-reduce | none, or all-reduce for distinct consumers |
/// | `P`, `S(i)` | reduce-scatter | all-gather |
///
/// # Errors
///
/// A change from or to `P(max)` or `P(min)`.
pub fn redistribute<const D: usize>(
    x: Tensor<D>,
    from: Placement,
    to: Placement,
    consumer: Consumer,
    group: &ProcessGroup,
) -> Result<Tensor<D>, NotDifferentiable> {
    use Placement::{Partial, Replicate, Shard};
    if group.size() == 1 {
        return Ok(x);
    }
    let linear = |placement| !matches!(placement, Partial(ReduceKind::Max | ReduceKind::Min));
    if from != to && !(linear(from) && linear(to)) {
        return Err(NotDifferentiable { from, to });
    }
    // An average is a sum divided by the number of terms; the factor joins the value where it is
    // smallest.
    let n = group.size() as f64;
    let scaled = |x: Tensor<D>, factor: f64| if factor == 1.0 { x } else { x * factor };
    let weight = |placement| if placement == Partial(ReduceKind::Avg) { n } else { 1.0 };
    Ok(match (from, to) {
        (Replicate, Replicate) if consumer == Consumer::Distinct => copy(x, group),
        (Replicate, Replicate) => x,
        (Shard(from), Shard(to)) if from == to => x,
        (Replicate, Shard(dim)) => slice(x, dim, group),
        (Replicate, Partial(ReduceKind::Avg)) => copy(x, group),
        (Replicate, Partial(_)) => pair(x, Transfer::KeepOnFirst, Transfer::Keep, group),
        (Shard(dim), Replicate) => all_gather(x, dim, consumer, group),
        (Shard(concat), Shard(split)) => all_to_all(x, split, concat, group),
        (Shard(dim), Partial(_)) => {
            scaled(pair(x, Transfer::Pad(dim), Transfer::Slice(dim), group), weight(to))
        }
        (Partial(_), Replicate) => scaled(all_reduce(x, consumer, group), 1.0 / weight(from)),
        (Partial(_), Shard(dim)) => scaled(reduce_scatter(x, dim, group), 1.0 / weight(from)),
        (Partial(_), Partial(_)) => scaled(x, weight(to) / weight(from)),
    })
}

fn pair<const D: usize>(
    x: Tensor<D>,
    forward: Transfer,
    backward: Transfer,
    group: &ProcessGroup,
) -> Tensor<D> {
    apply(x, Pair { forward, backward, group: group.clone() })
}
