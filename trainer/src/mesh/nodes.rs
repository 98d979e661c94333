//! Which groups of the mesh stay inside a node and which cross the network between nodes.

use super::{Axis, AxisSet, DeviceMesh, MeshError};

/// Nodes filled with consecutive ranks, the same number on each but possibly fewer on the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Nodes {
    ranks_per_node: usize,
}

impl Nodes {
    /// Builds nodes of `ranks_per_node` ranks.
    ///
    /// # Errors
    /// Returns an error if `ranks_per_node` is zero.
    pub const fn new(ranks_per_node: usize) -> Result<Self, MeshError> {
        if ranks_per_node == 0 {
            return Err(MeshError::ZeroRanksPerNode);
        }
        Ok(Self { ranks_per_node })
    }

    /// Returns the ranks of one full node.
    pub const fn ranks_per_node(&self) -> usize {
        self.ranks_per_node
    }

    /// Returns the node that holds `rank`.
    pub const fn node(&self, rank: usize) -> usize {
        rank / self.ranks_per_node
    }

    /// Returns the number of nodes that `world_size` ranks occupy.
    pub const fn num_nodes(&self, world_size: usize) -> usize {
        world_size.div_ceil(self.ranks_per_node)
    }

    /// Tells whether the group of `rank` along `axes` has members on more than one node.
    ///
    /// # Panics
    /// Panics if `rank` is not below the world size of the mesh.
    pub fn crosses(&self, mesh: &DeviceMesh, rank: usize, axes: impl Into<AxisSet>) -> bool {
        let axes = axes.into();
        let first = mesh.members(rank, axes).next().unwrap_or(rank);
        self.node(first) != self.node(first + mesh.span(axes))
    }

    /// Returns the nodes that the group of `rank` along `axes` touches, ascending.
    ///
    /// # Panics
    /// Panics if `rank` is not below the world size of the mesh.
    pub fn touched(&self, mesh: &DeviceMesh, rank: usize, axes: impl Into<AxisSet>) -> Vec<usize> {
        let mut nodes: Vec<usize> = mesh.members(rank, axes).map(|rank| self.node(rank)).collect();
        nodes.dedup();
        nodes
    }

    /// Counts the groups along `axes` that cross nodes, in at most one pass over their first ranks.
    pub fn num_crossing(&self, mesh: &DeviceMesh, axes: impl Into<AxisSet>) -> usize {
        let axes = axes.into();
        let span = mesh.span(axes);
        if span >= self.ranks_per_node {
            return mesh.size(axes.complement());
        }
        // Members ascend, and so do the nodes: the two ends decide.
        mesh.first_ranks(axes).filter(|first| self.node(*first) != self.node(first + span)).count()
    }

    /// Checks that tensor parallelism fits a node and counts its groups that straddle two.
    ///
    /// A few groups straddle when `tp` does not divide the ranks of a node: it works, slowly.
    ///
    /// # Errors
    /// Returns an error if `tp` is larger than a node.
    pub fn check_tensor_parallel(&self, mesh: &DeviceMesh) -> Result<usize, MeshError> {
        let (tp, ranks_per_node) = (mesh.size(Axis::Tp), self.ranks_per_node);
        if tp > ranks_per_node {
            return Err(MeshError::TensorParallelAcrossNodes { tp, ranks_per_node });
        }
        Ok(self.num_crossing(mesh, Axis::Tp))
    }
}
