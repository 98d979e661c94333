//! Global and local shapes: which block of a tensor a rank holds.
//!
//! A dimension of `len` elements splits over `parts` ranks in chunks of `ceil(len / parts)`, as
//! `PyTorch`'s `DTensor` does: the first ranks hold full chunks, the last ones may hold less or
//! none.

use std::ops::Range;

use super::{AxisSet, DeviceMesh, MeshError, Placement};

/// Returns the positions that part `index` holds of a dimension of `len` split over `parts`.
///
/// # Panics
/// Panics if `index` is not below `parts`.
///
/// # Examples
/// ```
/// use dream_trainer::mesh::shard_range;
///
/// let parts: Vec<_> = (0..4).map(|index| shard_range(5, 4, index)).collect();
/// assert_eq!(parts, [0..2, 2..4, 4..5, 5..5]);
/// ```
pub fn shard_range(len: usize, parts: usize, index: usize) -> Range<usize> {
    assert!(index < parts, "part {index} is outside of {parts} parts");
    let chunk = len.div_ceil(parts);
    let start = chunk.saturating_mul(index).min(len);
    start..start + chunk.min(len - start)
}

/// Returns the part that holds `position`, and where in that part it lies.
///
/// # Panics
/// Panics if `position` is not below `len`.
pub fn shard_of(len: usize, parts: usize, position: usize) -> (usize, usize) {
    assert!(position < len, "position {position} is outside of length {len}");
    let chunk = len.div_ceil(parts);
    (position / chunk, position % chunk)
}

/// Divides where only equal parts make sense, such as attention heads over tensor-parallel ranks.
///
/// # Errors
/// Returns an error with both numbers and the remainder if `by` does not divide `n`.
pub const fn exact_div(n: usize, by: usize) -> Result<usize, MeshError> {
    match by {
        0 => Err(MeshError::ZeroParts { n }),
        _ if n.is_multiple_of(by) => Ok(n / by),
        _ => Err(MeshError::NotDivisible { n, by }),
    }
}

/// A contiguous block of a tensor, in global coordinates.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Block {
    /// The global position of the first element, per dimension.
    pub offset: Vec<usize>,
    /// The length per dimension; 0 where nothing is left for this rank.
    pub shape: Vec<usize>,
}

impl Block {
    /// Returns the block that is the whole tensor.
    pub fn whole(shape: &[usize]) -> Self {
        Self { offset: vec![0; shape.len()], shape: shape.to_vec() }
    }

    /// Returns part `index` of this block, split along `dim` over `parts`.
    ///
    /// # Panics
    /// Panics if the block has no dimension `dim` or `index` is not below `parts`.
    #[must_use]
    pub fn shard(mut self, dim: usize, parts: usize, index: usize) -> Self {
        let range = shard_range(self.shape[dim], parts, index);
        self.offset[dim] += range.start;
        self.shape[dim] = range.len();
        self
    }

    /// Returns the number of elements.
    pub fn num_elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Returns the range of global positions along `dim`.
    ///
    /// # Panics
    /// Panics if the block has no dimension `dim`.
    pub fn range(&self, dim: usize) -> Range<usize> {
        self.offset[dim]..self.offset[dim] + self.shape[dim]
    }

    /// Returns the elements both blocks hold, or nothing if they share none.
    ///
    /// Loading a checkpoint on another mesh copies the intersection of each stored block with the
    /// local one.
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        let (mut offset, mut shape) = (Vec::new(), Vec::new());
        for dim in 0..self.shape.len().min(other.shape.len()) {
            let (a, b) = (self.range(dim), other.range(dim));
            let (start, end) = (a.start.max(b.start), a.end.min(b.end));
            offset.push(start);
            shape.push(end.checked_sub(start).filter(|len| *len > 0)?);
        }
        Some(Self { offset, shape })
    }
}

/// Returns the block that `rank` holds of a tensor of the global `shape`.
///
/// Splits apply in the order of `placements`: two that shard the same dimension nest, the later
/// within the earlier. Axes that are not listed replicate. A partial tensor has its full shape.
///
/// # Errors
/// Returns an error if a placement shards a dimension the tensor lacks, or an axis occurs twice.
///
/// # Panics
/// Panics if `rank` is not below the world size.
pub fn local_block(
    mesh: &DeviceMesh,
    rank: usize,
    shape: &[usize],
    placements: &[(AxisSet, Placement)],
) -> Result<Block, MeshError> {
    let (mut block, mut placed) = (Block::whole(shape), AxisSet::EMPTY);
    for &(axes, placement) in placements {
        let again = placed.intersection(axes);
        if !again.is_empty() {
            return Err(MeshError::AxisPlacedTwice { axes: again });
        }
        placed = placed | axes;
        block = match placement {
            Placement::Shard(dim) if dim < shape.len() => {
                block.shard(dim, mesh.size(axes), mesh.axis_rank(rank, axes))
            }
            Placement::Shard(dim) => {
                return Err(MeshError::DimOutOfRange { dim, axes, shape: shape.to_vec() });
            }
            Placement::Replicate | Placement::Partial(_) => block,
        };
    }
    Ok(block)
}

/// Returns the local shape on `rank` of a tensor of the global `shape`.
///
/// # Errors
/// As [`local_block`].
///
/// # Panics
/// Panics if `rank` is not below the world size.
pub fn local_shape(
    mesh: &DeviceMesh,
    rank: usize,
    shape: &[usize],
    placements: &[(AxisSet, Placement)],
) -> Result<Vec<usize>, MeshError> {
    local_block(mesh, rank, shape, placements).map(|block| block.shape)
}
