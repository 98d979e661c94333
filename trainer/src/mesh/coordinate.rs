//! Where one rank sits on the mesh.

use std::fmt;

use super::{Axis, AxisSet};

/// The indices of one rank along all axes.
///
/// Displays as `pp0/dp_shard1/tp3`, from outer to inner and without the axes of size 1; the only
/// rank of a single-rank mesh displays as `single`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Coordinate {
    indices: [usize; 5],
    enabled: AxisSet,
}

impl Coordinate {
    /// Builds a coordinate from its indices in the order of [`Axis::ALL`].
    pub(crate) const fn new(indices: [usize; 5], enabled: AxisSet) -> Self {
        Self { indices, enabled }
    }

    /// Returns the index along one axis.
    pub const fn get(&self, axis: Axis) -> usize {
        self.indices[axis as usize]
    }

    /// Returns the coordinate with another index along one axis.
    #[must_use]
    pub const fn with(mut self, axis: Axis, index: usize) -> Self {
        self.indices[axis as usize] = index;
        self
    }
}

impl fmt::Display for Coordinate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.enabled.is_empty() {
            return f.pad("single");
        }
        let parts: Vec<String> =
            self.enabled.iter().map(|axis| format!("{axis}{}", self.get(axis))).collect();
        f.pad(&parts.join("/"))
    }
}
