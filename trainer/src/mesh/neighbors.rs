//! [`Neighbors`]: groups of ranks that are next to each other along one axis.

use std::fmt;

use super::{Axis, DeviceMesh};

/// Groups of `count` ranks that are next to each other along an axis.
///
/// Where an axis has more ranks than a dimension has units that stay whole, such as the key-value
/// heads of an attention layer, neighbors hold copies of one unit.
///
/// # Examples
/// ```
/// use dream_trainer::mesh::{Axis, Degrees, MeshOrder, Neighbors};
///
/// let mesh = Degrees { tp: 4.into(), ..Degrees::default() }.resolve(4, MeshOrder::default())?;
/// let pairs = Neighbors { axis: Axis::Tp, count: 2 };
/// assert_eq!(mesh.neighbors(3, pairs), [2, 3]);
/// assert_eq!(mesh.all_neighbors(pairs), [[0, 1], [2, 3]]);
/// # Ok::<(), dream_trainer::mesh::MeshError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Neighbors {
    /// The axis.
    pub axis: Axis,
    /// Ranks in each group; divides the size of the axis.
    pub count: usize,
}

impl fmt::Display for Neighbors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{} neighbors along {}", self.count, self.axis))
    }
}

impl DeviceMesh {
    /// Returns the members of the group of `rank`, in the order of the axis.
    ///
    /// # Panics
    /// Panics if `rank` is not below the world size or the count does not divide the axis.
    pub fn neighbors(&self, rank: usize, neighbors: Neighbors) -> Vec<usize> {
        let Neighbors { axis, count } = neighbors;
        assert!(
            count > 0 && self.size(axis).is_multiple_of(count),
            "{count} neighbors do not divide the {} ranks along `{axis}`",
            self.size(axis)
        );
        let first = self.axis_rank(rank, axis) / count * count;
        self.group(rank, axis)[first..first + count].to_vec()
    }

    /// Returns every group, ordered by first rank.
    ///
    /// # Panics
    /// Panics if the count does not divide the axis.
    pub fn all_neighbors(&self, neighbors: Neighbors) -> Vec<Vec<usize>> {
        let groups = (0..self.world_size()).map(|rank| (rank, self.neighbors(rank, neighbors)));
        groups.filter(|(rank, group)| group[0] == *rank).map(|(_, group)| group).collect()
    }
}
