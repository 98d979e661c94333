//! How the local value of a parameter lies in the global one.

use crate::mesh::{AxisSet, Block, Placement};

/// Which block of a parameter this rank holds, and how its gradient is to be summed.
///
/// The default of a parameter is the whole of it, with a gradient that only data parallelism has to
/// sum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamLayout {
    /// Placement by axes, in the order in which they were applied; two that shard one dimension
    /// nest. Axes that are not listed replicate.
    pub placements: Vec<(AxisSet, Placement)>,
    /// Axes, besides those of data parallelism, over which the local gradient is one term of a sum:
    /// the parameter is replicated there, but each rank applied it to tokens of its own.
    pub partial_gradient: AxisSet,
    /// The block held here, in global coordinates.
    pub block: Block,
}

impl ParamLayout {
    /// Returns the layout of a parameter that is held whole.
    pub fn whole(shape: &[usize]) -> Self {
        Self {
            placements: Vec::new(),
            partial_gradient: AxisSet::EMPTY,
            block: Block::whole(shape),
        }
    }

    /// Splits the local block along `dim` over `parts` ranks along `axes`, and keeps part `index`.
    ///
    /// # Panics
    ///
    /// If there is no such dimension or part.
    #[must_use]
    pub fn shard(
        mut self,
        axes: impl Into<AxisSet>,
        dim: usize,
        parts: usize,
        index: usize,
    ) -> Self {
        self.placements.push((axes.into(), Placement::Shard(dim)));
        self.block = self.block.shard(dim, parts, index);
        self
    }

    /// Marks the gradient as a term of a sum over `axes`.
    #[must_use]
    pub fn with_partial_gradient(mut self, axes: impl Into<AxisSet>) -> Self {
        self.partial_gradient = self.partial_gradient | axes.into();
        self
    }

    /// Returns the axes over which the parameter is split: its squares and its elements add up over
    /// them, and over no others.
    pub fn sharded_axes(&self) -> AxisSet {
        let sharded = self
            .placements
            .iter()
            .filter(|(_, placement)| matches!(placement, Placement::Shard(_)));
        sharded.fold(AxisSet::EMPTY, |all, (axes, _)| all | *axes)
    }
}
