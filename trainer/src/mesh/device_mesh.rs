//! The device mesh: ranks as coordinates, and the groups of ranks along any set of axes.

use serde::{Deserialize, Serialize};

use super::{Axis, AxisSet, Coordinate, Degree, Degrees, MeshError, MeshOrder};

/// The sizes of all axes and their order; every question is answered by arithmetic, without tables.
///
/// A mesh is five sizes and an order: copy it freely. Ranks count along the innermost axis first,
/// so in the order `dp,pp,cp,tp`: `rank = tp + TP*(cp + CP*(pp + PP*(dp_shard +
/// DP_SHARD*dp_replicate)))`.
///
/// # Examples
/// ```
/// use dream_trainer::mesh::{Axis, Degree, Degrees, MeshOrder};
///
/// let degrees = Degrees { dp_shard: Degree::Auto, tp: 2.into(), ..Degrees::default() };
/// let mesh = degrees.resolve(8, MeshOrder::default())?;
/// assert_eq!(mesh.size(Axis::DpShard), 4);
/// assert_eq!(mesh.group(5, Axis::DpShard), [1, 3, 5, 7]);
/// assert_eq!(mesh.coordinate(5).to_string(), "dp_shard2/tp1");
/// # Ok::<(), dream_trainer::mesh::MeshError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "MeshRecord", into = "MeshRecord")]
pub struct DeviceMesh {
    sizes: [usize; 5],
    order: MeshOrder,
}

impl DeviceMesh {
    /// Returns the mesh of a single rank.
    pub const fn single() -> Self {
        Self { sizes: [1; 5], order: MeshOrder::PpOutermost }
    }

    /// Builds a mesh whose sizes are positive and whose product fits a machine word.
    pub(crate) const fn from_sizes(sizes: [usize; 5], order: MeshOrder) -> Self {
        Self { sizes, order }
    }

    /// Returns the number of ranks.
    pub fn world_size(&self) -> usize {
        self.sizes.iter().product()
    }

    /// Returns the order of the axes.
    pub const fn order(&self) -> MeshOrder {
        self.order
    }

    /// Returns the number of ranks of one group along `axes`.
    pub fn size(&self, axes: impl Into<AxisSet>) -> usize {
        axes.into().iter().map(|axis| self.sizes[axis as usize]).product()
    }

    /// Returns the axes with more than one rank.
    pub fn enabled(&self) -> AxisSet {
        Axis::ALL
            .into_iter()
            .filter(|axis| self.sizes[*axis as usize] > 1)
            .fold(AxisSet::EMPTY, |set, axis| set | axis)
    }

    /// Returns the distance in ranks between neighbors along `axis`.
    pub fn stride(&self, axis: Axis) -> usize {
        self.inner_to_outer()
            .take_while(|inner| *inner != axis)
            .map(|inner| self.size(inner))
            .product()
    }

    /// Returns the distance between neighbors of a group along `axes`, if it is the same for all.
    ///
    /// Axes with others between them, as `dp_shard` and `cp` in the order `dp,pp,cp,tp`, have none.
    pub fn uniform_stride(&self, axes: impl Into<AxisSet>) -> Option<usize> {
        let axes = axes.into().intersection(self.enabled());
        let mut inner_to_outer = self.inner_to_outer().filter(|axis| axes.contains(*axis));
        let Some(innermost) = inner_to_outer.next() else {
            return Some(1);
        };
        let stride = self.stride(innermost);
        let mut next = stride * self.size(innermost);
        for axis in inner_to_outer {
            if self.stride(axis) != next {
                return None;
            }
            next *= self.size(axis);
        }
        Some(stride)
    }

    /// Returns where `rank` sits.
    ///
    /// # Panics
    /// Panics if `rank` is not below the world size.
    pub fn coordinate(&self, rank: usize) -> Coordinate {
        self.assert_rank(rank);
        Coordinate::new(Axis::ALL.map(|axis| self.index(rank, axis)), self.enabled())
    }

    /// Returns the rank that sits at `coordinate`.
    ///
    /// # Panics
    /// Panics if an index of the coordinate is not below the size of its axis.
    pub fn rank(&self, coordinate: &Coordinate) -> usize {
        Axis::ALL.into_iter().fold(0, |rank, axis| {
            let (index, size) = (coordinate.get(axis), self.size(axis));
            assert!(index < size, "index {index} along `{axis}` is outside of its size {size}");
            rank + index * self.stride(axis)
        })
    }

    /// Returns the position of `rank` within its group along `axes`.
    ///
    /// # Panics
    /// Panics if `rank` is not below the world size.
    pub fn axis_rank(&self, rank: usize, axes: impl Into<AxisSet>) -> usize {
        self.assert_rank(rank);
        let axes = axes.into();
        self.order
            .axes()
            .into_iter()
            .filter(|axis| axes.contains(*axis))
            .fold(0, |position, axis| position * self.size(axis) + self.index(rank, axis))
    }

    /// Returns the members of the group of `rank` along `axes`, in mesh order.
    ///
    /// Mesh order is ascending: `group(rank, axes)[axis_rank(rank, axes)] == rank`.
    ///
    /// # Panics
    /// Panics if `rank` is not below the world size.
    pub fn group(&self, rank: usize, axes: impl Into<AxisSet>) -> Vec<usize> {
        self.members(rank, axes).collect()
    }

    /// Returns every group along `axes`, ordered by first rank.
    ///
    /// Every rank creates groups in this order, which is what makes their creation collective.
    pub fn groups(&self, axes: impl Into<AxisSet>) -> Vec<Vec<usize>> {
        let axes = axes.into();
        self.first_ranks(axes).map(|first| self.group(first, axes)).collect()
    }

    /// Iterates over the members of the group of `rank` along `axes` without storing them.
    ///
    /// # Panics
    /// Panics if `rank` is not below the world size.
    pub fn members(&self, rank: usize, axes: impl Into<AxisSet>) -> impl Iterator<Item = usize> {
        let axes = axes.into();
        let first = rank - self.offset(self.axis_rank(rank, axes), axes);
        (0..self.size(axes)).map(move |position| first + self.offset(position, axes))
    }

    /// Iterates over the first rank of every group along `axes`, ascending.
    pub fn first_ranks(&self, axes: impl Into<AxisSet>) -> impl Iterator<Item = usize> {
        let others = axes.into().complement();
        (0..self.size(others)).map(move |group| self.offset(group, others))
    }

    /// Returns the distance from the first to the last member of each group along `axes`.
    pub fn span(&self, axes: impl Into<AxisSet>) -> usize {
        axes.into().iter().map(|axis| (self.size(axis) - 1) * self.stride(axis)).sum()
    }

    /// Returns the distance of the member at `position` from the first member of its group.
    fn offset(&self, mut position: usize, axes: AxisSet) -> usize {
        let (mut stride, mut offset) = (1, 0);
        for axis in self.inner_to_outer() {
            let size = self.size(axis);
            if axes.contains(axis) {
                offset += position % size * stride;
                position /= size;
            }
            stride *= size;
        }
        offset
    }

    fn index(&self, rank: usize, axis: Axis) -> usize {
        rank / self.stride(axis) % self.size(axis)
    }

    fn inner_to_outer(&self) -> impl Iterator<Item = Axis> + use<> {
        self.order.axes().into_iter().rev()
    }

    fn assert_rank(&self, rank: usize) {
        let world_size = self.world_size();
        assert!(rank < world_size, "rank {rank} is outside of world size {world_size}");
    }
}

/// The stored form of a mesh, checked when read.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MeshRecord {
    order: MeshOrder,
    pp: usize,
    dp_replicate: usize,
    dp_shard: usize,
    cp: usize,
    tp: usize,
}

impl From<DeviceMesh> for MeshRecord {
    fn from(mesh: DeviceMesh) -> Self {
        let [pp, dp_replicate, dp_shard, cp, tp] = mesh.sizes;
        Self { order: mesh.order, pp, dp_replicate, dp_shard, cp, tp }
    }
}

impl TryFrom<MeshRecord> for DeviceMesh {
    type Error = MeshError;

    fn try_from(record: MeshRecord) -> Result<Self, MeshError> {
        let MeshRecord { order, pp, dp_replicate, dp_shard, cp, tp } = record;
        let sizes = [pp, dp_replicate, dp_shard, cp, tp];
        let [pp, dp_replicate, dp_shard, cp, tp] = sizes.map(Degree::Fixed);
        let degrees = Degrees { pp, dp_replicate, dp_shard, cp, tp };
        degrees.resolve(degrees.product()?, order)
    }
}
