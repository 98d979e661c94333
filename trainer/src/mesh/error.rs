//! What can be wrong with a mesh, and what to try instead.

use super::{Axis, AxisSet, Degrees};

/// A mesh, degree, order or layout that cannot be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MeshError {
    /// A name that is no axis.
    #[error("`{name}` is not a mesh axis")]
    UnknownAxis {
        /// The name as given.
        name: String,
    },
    /// An order of axes other than the two supported ones.
    #[error(
        "mesh order `{given}` is not supported: it must be `pp,dp,cp,tp` or `dp,pp,cp,tp`, \
         with `cp` and `tp` innermost"
    )]
    UnsupportedOrder {
        /// The order as given, joined by commas.
        given: String,
    },
    /// A degree that is neither a positive integer nor `auto`.
    #[error("`{text}` is not a degree: it must be an integer of at least 1 or `auto`")]
    InvalidDegree {
        /// The value as given.
        text: String,
    },
    /// A world without ranks.
    #[error("world size is 0 but must be at least 1")]
    ZeroWorld,
    /// An axis of size zero.
    #[error("degree of `{axis}` is 0 but must be an integer of at least 1 or `auto`")]
    ZeroDegree {
        /// The axis.
        axis: Axis,
    },
    /// More than one degree left to be derived.
    #[error("degrees of {} are `auto` but at most one may be", names(*.axes))]
    SeveralAuto {
        /// The axes that are `auto`.
        axes: AxisSet,
    },
    /// Fixed degrees that leave no whole number for the `auto` axis.
    #[error(
        "product {product} of {degrees} does not divide world size {world_size}, \
         so `auto` of `{axis}` has no value"
    )]
    IndivisibleWorld {
        /// The declared degrees.
        degrees: Degrees,
        /// The product of the fixed ones.
        product: usize,
        /// The number of ranks.
        world_size: usize,
        /// The axis that is `auto`.
        axis: Axis,
    },
    /// Fixed degrees whose product is another number of ranks.
    #[error("product {product} of {degrees} != world size {world_size}")]
    ProductMismatch {
        /// The declared degrees.
        degrees: Degrees,
        /// Their product.
        product: usize,
        /// The number of ranks.
        world_size: usize,
    },
    /// Degrees whose product no machine word holds.
    #[error("product of {degrees} is larger than the largest world size {}", usize::MAX)]
    ProductOverflow {
        /// The declared degrees.
        degrees: Degrees,
    },
    /// A length that must split into equal parts and does not.
    #[error("{n} is not divisible by {by}: {n} % {by} = {}", .n % .by)]
    NotDivisible {
        /// The length.
        n: usize,
        /// The number of parts.
        by: usize,
    },
    /// A split into zero parts.
    #[error("{n} cannot be split into 0 parts")]
    ZeroParts {
        /// The length.
        n: usize,
    },
    /// A text that is no placement.
    #[error("`{text}` is not a placement: it must be `S(dim)`, `R` or `P(sum|avg|max|min)`")]
    InvalidPlacement {
        /// The text as given.
        text: String,
    },
    /// A sharded dimension the tensor does not have.
    #[error("placement `S({dim})` over `{axes}` names no dimension of shape {shape:?}")]
    DimOutOfRange {
        /// The dimension.
        dim: usize,
        /// The axes that would shard it.
        axes: AxisSet,
        /// The global shape.
        shape: Vec<usize>,
    },
    /// An axis with two placements.
    #[error("{} already placed: an axis carries one placement of a tensor", is_or_are(*.axes))]
    AxisPlacedTwice {
        /// The axes that occur again.
        axes: AxisSet,
    },
    /// Nodes without ranks.
    #[error("ranks per node is 0 but must be at least 1")]
    ZeroRanksPerNode,
    /// Tensor parallelism wider than a node.
    #[error("degree of `tp` is {tp} but must be at most {ranks_per_node}, the ranks per node")]
    TensorParallelAcrossNodes {
        /// The size of the tensor-parallel axis.
        tp: usize,
        /// The ranks of one node.
        ranks_per_node: usize,
    },
}

impl MeshError {
    /// Returns what to try instead, where there is something to try.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownAxis { name } => nearest_axis(name),
            Self::SeveralAuto { .. } => Some("give all but one of them a number".to_owned()),
            Self::IndivisibleWorld { degrees, world_size, .. }
            | Self::ProductMismatch { degrees, world_size, .. } => {
                degrees.nearest_valid(*world_size)
            }
            Self::TensorParallelAcrossNodes { ranks_per_node, .. } => Some(format!(
                "every layer waits for tensor-parallel traffic: keep `tp` at {ranks_per_node} or \
                 less and use `pp` or data parallelism between nodes, or allow it explicitly"
            )),
            _ => None,
        }
    }
}

fn nearest_axis(name: &str) -> Option<String> {
    let name = name.to_ascii_lowercase();
    let nearest = Axis::ALL
        .into_iter()
        .map(|axis| (strsim::damerau_levenshtein(&name, axis.name()), axis))
        .min()?;
    // Half of the name may be wrong before a suggestion becomes noise.
    let (distance, axis) = nearest;
    if distance * 2 <= axis.name().len() {
        return Some(format!("did you mean `{axis}`?"));
    }
    let all = Axis::ALL.map(|axis| format!("`{axis}`")).join(", ");
    Some(format!("the axes are {all}"))
}

fn names(axes: AxisSet) -> String {
    axes.iter().map(|axis| format!("`{axis}`")).collect::<Vec<_>>().join(", ")
}

fn is_or_are(axes: AxisSet) -> String {
    let verb = if axes.iter().count() == 1 { "is" } else { "are" };
    format!("{} {verb}", names(axes))
}
