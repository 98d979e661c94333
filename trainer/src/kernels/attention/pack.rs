//! Heads copied out of `[batch, sequence, heads, head_dim]` into the orders in which blocks are multiplied.

use super::tile::PAD;
use crate::kernels::flex;

/// Keys of a block: what a block of queries needs of them stays in the first-level cache.
pub(super) const KEYS: usize = 64;

/// One head of one sequence, where it lies.
#[derive(Clone, Copy)]
pub(super) struct Head<'a> {
    values: &'a [f32],
    first: usize,
    stride: usize,
    pub(super) rows: usize,
    pub(super) width: usize,
}

impl<'a> Head<'a> {
    pub(super) fn new(
        values: &'a [f32],
        [sequences, heads, width]: [usize; 3],
        sequence: usize,
        head: usize,
    ) -> Self {
        let stride = heads * width;
        let rows = values.len() / (sequences * stride).max(1);
        Self { values, first: sequence * rows * stride + head * width, stride, rows, width }
    }

    pub(super) fn row(self, row: usize) -> &'a [f32] {
        &self.values[self.first + row * self.stride..][..self.width]
    }
}

/// Returns a width with zeros up to the next multiple of [`PAD`].
pub(super) fn padded(width: usize) -> usize {
    width.next_multiple_of(PAD)
}

/// Rows of a head one after the other, each padded with zeros.
pub(super) struct Rows {
    pub(super) values: Vec<f32>,
    pub(super) stride: usize,
}

impl Rows {
    /// Copies a head, multiplied by `factor`.
    pub(super) fn copy(head: Head<'_>, factor: f32) -> Self {
        let stride = padded(head.width);
        let mut values = flex::scratch(head.rows * stride);
        for (row, target) in values.chunks_exact_mut(stride.max(1)).enumerate() {
            let (elements, padding) = target.split_at_mut(head.width);
            for (target, value) in elements.iter_mut().zip(head.row(row)) {
                *target = value * factor;
            }
            padding.fill(0.0);
        }
        Self { values, stride }
    }

    pub(super) fn zeros(rows: usize, width: usize) -> Self {
        let stride = padded(width);
        Self { values: vec![0.0; rows * stride], stride }
    }

    /// Returns the rows from `row` on.
    pub(super) fn at(&self, row: usize) -> &[f32] {
        &self.values[row * self.stride..]
    }

    /// Returns the rows from `row` on, to write to.
    pub(super) fn at_mut(&mut self, row: usize) -> &mut [f32] {
        &mut self.values[row * self.stride..]
    }
}

/// Blocks of [`KEYS`] rows of a head, each transposed: vectors run over the keys. The last block is padded with zeros.
pub(super) struct Columns {
    values: Vec<f32>,
    width: usize,
}

impl Columns {
    pub(super) fn copy(head: Head<'_>) -> Self {
        let width = head.width;
        let mut values = flex::scratch(head.rows.next_multiple_of(KEYS) * width);
        for (block, target) in values.chunks_exact_mut((KEYS * width).max(1)).enumerate() {
            let first = block * KEYS;
            let count = KEYS.min(head.rows - first);
            if count < KEYS {
                target.fill(0.0);
            }
            // A few rows at a time: their cache lines stay until every column has been read.
            for part in (0..count).step_by(PAD) {
                for row in part..count.min(part + PAD) {
                    for (column, value) in head.row(first + row).iter().enumerate() {
                        target[column * KEYS + row] = *value;
                    }
                }
            }
        }
        Self { values, width }
    }

    /// Returns the transposed block that begins with the key `first`, a multiple of [`KEYS`].
    pub(super) fn block(&self, first: usize) -> &[f32] {
        &self.values[first * self.width..][..KEYS * self.width]
    }
}
