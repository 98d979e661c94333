//! How the local value of a parameter lies in the global one.

use crate::mesh::{AxisSet, Block, DeviceMesh, Neighbors, Placement};

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
    /// Neighbors that hold the same block of an axis that splits the parameter into fewer parts than
    /// it has ranks. Each uses its copy for other outputs, so their gradients are terms of a sum.
    pub copies: Option<Neighbors>,
    /// The block held here, in global coordinates.
    pub block: Block,
}

impl ParamLayout {
    /// Returns the layout of a parameter that is held whole.
    pub fn whole(shape: &[usize]) -> Self {
        Self {
            placements: Vec::new(),
            partial_gradient: AxisSet::EMPTY,
            copies: None,
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

    /// Marks the block as one of which each of these neighbors holds a copy.
    #[must_use]
    pub fn with_copies(mut self, copies: Neighbors) -> Self {
        self.copies = Some(copies);
        self
    }

    /// Tells whether `rank` is the one of those with copies of a block whose copy counts: in norms,
    /// in checkpoints.
    pub fn is_first_copy(&self, mesh: &DeviceMesh, rank: usize) -> bool {
        self.copies
            .is_none_or(|copies| mesh.axis_rank(rank, copies.axis).is_multiple_of(copies.count))
    }

    /// Returns the block that `rank` holds of this parameter, whose global shape is `shape`.
    ///
    /// # Panics
    ///
    /// If there is no such rank or dimension.
    pub fn block_of(&self, mesh: &DeviceMesh, rank: usize, shape: &[usize]) -> Block {
        self.placements.iter().fold(Block::whole(shape), |block, (axes, placement)| {
            let Placement::Shard(dim) = placement else { return block };
            let copies = self.copies.filter(|copies| *axes == AxisSet::from(copies.axis));
            let copies = copies.map_or(1, |copies| copies.count);
            block.shard(*dim, mesh.size(*axes) / copies, mesh.axis_rank(rank, *axes) / copies)
        })
    }

    /// Returns the axes over which the parameter is split: its squares and its elements add up over
    /// them, and over no others. Of neighbors with copies only the first counts.
    pub fn sharded_axes(&self) -> AxisSet {
        let sharded = self
            .placements
            .iter()
            .filter(|(_, placement)| matches!(placement, Placement::Shard(_)));
        sharded.fold(AxisSet::EMPTY, |all, (axes, _)| all | *axes)
    }
}
