//! Rectangular blocks of a tensor: intersection, tiling and copying between row-major buffers. Pure
//! index arithmetic.

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A rectangular part of a global tensor: where it starts and how far it reaches in each dim.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Block {
    /// First index in each dim.
    pub offset: Vec<usize>,
    /// Extent in each dim.
    pub shape: Vec<usize>,
}

/// Why a set of blocks is not a partition of a tensor.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TilingError {
    /// The global shape has more elements than can be counted.
    #[error("shape {shape:?} has too many elements")]
    TooLarge {
        /// The global shape.
        shape: Vec<usize>,
    },
    /// A block reaches beyond the tensor or has another number of dims.
    #[error("block {block} lies outside of shape {shape:?}")]
    OutOfBounds {
        /// The offending block.
        block: Block,
        /// The global shape.
        shape: Vec<usize>,
    },
    /// Two blocks claim the same elements.
    #[error("blocks {first} and {second} overlap")]
    Overlap {
        /// One block.
        first: Block,
        /// The other block.
        second: Block,
    },
    /// Elements belong to no block.
    #[error("blocks hold {covered} of the {total} elements of shape {shape:?}")]
    Gap {
        /// Elements in blocks.
        covered: usize,
        /// Elements of the tensor.
        total: usize,
        /// The global shape.
        shape: Vec<usize>,
    },
}

impl Block {
    /// Makes a block from its first index and its extent.
    pub fn new(offset: impl Into<Vec<usize>>, shape: impl Into<Vec<usize>>) -> Self {
        Self { offset: offset.into(), shape: shape.into() }
    }

    /// Returns the block that is the whole tensor of shape `shape`.
    pub fn whole(shape: &[usize]) -> Self {
        Self::new(vec![0; shape.len()], shape)
    }

    /// Returns the number of elements, or none if it does not fit a `usize`.
    pub fn num_elements(&self) -> Option<usize> {
        num_elements(&self.shape)
    }

    /// Returns whether the block lies within a tensor of shape `shape`.
    pub fn fits(&self, shape: &[usize]) -> bool {
        self.offset.len() == shape.len()
            && self.shape.len() == shape.len()
            && self
                .offset
                .iter()
                .zip(&self.shape)
                .zip(shape)
                .all(|((&start, &len), &dim)| start.checked_add(len).is_some_and(|end| end <= dim))
    }

    /// Returns the common part of two blocks of one tensor, none if they share no element.
    pub fn intersect(&self, other: &Self) -> Option<Self> {
        let mut common = Self::new(Vec::new(), Vec::new());
        for dim in 0..self.offset.len() {
            let start = self.offset[dim].max(other.offset[dim]);
            let end = self.end(dim).min(other.end(dim));
            if start >= end {
                return None;
            }
            common.offset.push(start);
            common.shape.push(end - start);
        }
        Some(common)
    }

    /// Cuts the row-major range `range` of a tensor of shape `shape` into blocks, in order.
    ///
    /// A flat shard of a parameter (equal numbers of elements per rank, regardless of rows) becomes
    /// at most `2 * rank - 1` blocks.
    ///
    /// # Panics
    ///
    /// If the range reaches beyond the tensor.
    pub fn cover_flat_range(shape: &[usize], range: Range<usize>) -> Vec<Self> {
        if range.is_empty() {
            return Vec::new();
        }
        assert!(
            num_elements(shape).is_some_and(|total| range.end <= total),
            "range {range:?} lies outside of shape {shape:?}"
        );
        let Some((_, rest)) = shape.split_first() else {
            return vec![Self::whole(shape)];
        };
        let row: usize = rest.iter().product();
        let mut blocks = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let (index, within) = (at / row, at % row);
            let full_rows = if within == 0 { (range.end - at) / row } else { 0 };
            if full_rows > 0 {
                blocks.push(Self::whole(rest).prefixed(index, full_rows));
                at += full_rows * row;
            } else {
                let end = range.end.min((index + 1) * row);
                let inner = Self::cover_flat_range(rest, within..end - index * row);
                blocks.extend(inner.into_iter().map(|block| block.prefixed(index, 1)));
                at = end;
            }
        }
        blocks
    }

    fn prefixed(mut self, start: usize, len: usize) -> Self {
        self.offset.insert(0, start);
        self.shape.insert(0, len);
        self
    }

    fn end(&self, dim: usize) -> usize {
        self.offset[dim] + self.shape[dim]
    }

    /// Row-major position of the global index `index` in a buffer that holds this block.
    fn position(&self, index: &[usize]) -> usize {
        let dims = index.iter().zip(&self.offset).zip(&self.shape);
        dims.fold(0, |position, ((index, start), len)| position * len + (index - start))
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {:?}", self.shape, self.offset)
    }
}

/// Returns the number of elements of `shape`, or none if it does not fit a `usize`.
pub(crate) fn num_elements(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1_usize, |product, &dim| product.checked_mul(dim))
}

/// Checks that `blocks` hold every element of a tensor of shape `shape` exactly once.
pub(crate) fn check_tiling(shape: &[usize], blocks: &[&Block]) -> Result<(), TilingError> {
    let total =
        num_elements(shape).ok_or_else(|| TilingError::TooLarge { shape: shape.to_vec() })?;
    if let Some(block) = blocks.iter().find(|block| !block.fits(shape)) {
        return Err(TilingError::OutOfBounds { block: (*block).clone(), shape: shape.to_vec() });
    }
    let mut sorted = blocks.to_vec();
    sorted.sort();
    for (i, first) in sorted.iter().enumerate() {
        // Sorted by their start in the first dim: beyond the first block's end nothing can overlap
        // it.
        let reach = if shape.is_empty() { 1 } else { first.end(0) };
        let near =
            sorted[i + 1..].iter().take_while(|b| b.offset.first().is_none_or(|&o| o < reach));
        if let Some(second) = near.into_iter().find(|second| first.intersect(second).is_some()) {
            return Err(TilingError::Overlap {
                first: (*first).clone(),
                second: (*second).clone(),
            });
        }
    }
    // Disjoint blocks inside the tensor cannot hold more elements than it, so the sum does not
    // overflow.
    let covered = sorted.iter().filter_map(|block| block.num_elements()).sum();
    if covered != total {
        return Err(TilingError::Gap { covered, total, shape: shape.to_vec() });
    }
    Ok(())
}

/// Copies the elements two blocks have in common from `source` to `target`, both row-major.
pub(crate) fn copy_overlap(
    element_bytes: usize,
    (from, source): (&Block, &[u8]),
    (to, target): (&Block, &mut [u8]),
) {
    let Some(common) = from.intersect(to) else {
        return;
    };
    // The last dims, as far as both blocks hold them in full, lie in one run.
    let mut outer = common.shape.len();
    let mut run = element_bytes;
    while outer > 0 {
        outer -= 1;
        run *= common.shape[outer];
        if common.shape[outer] != from.shape[outer] || common.shape[outer] != to.shape[outer] {
            break;
        }
    }
    let mut index = common.offset.clone();
    for nth in 0..common.shape[..outer].iter().product::<usize>() {
        let mut rest = nth;
        for dim in (0..outer).rev() {
            index[dim] = common.offset[dim] + rest % common.shape[dim];
            rest /= common.shape[dim];
        }
        let read = from.position(&index) * element_bytes;
        let write = to.position(&index) * element_bytes;
        target[write..write + run].copy_from_slice(&source[read..read + run]);
    }
}
