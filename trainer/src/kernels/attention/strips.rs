//! How a block of queries is worked on: strips of a few queries, each with the window of keys it sees of a block of keys.

use std::ops::Range;

use super::mask::Mask;
use super::pack::{KEYS, Rows};
use super::tile::{Left, PAD, Product};

/// Queries of a block.
pub(super) const QUERIES: usize = 64;
/// Queries whose scores are taken together.
pub(super) const STRIP: usize = 8;

/// The strips of a block of queries.
pub(super) struct Strips {
    pub(super) all: Vec<Strip>,
}

/// A few consecutive queries and the range of keys that holds all they see.
pub(super) struct Strip {
    pub(super) queries: Range<usize>,
    keys: Range<usize>,
}

/// The part of a block of keys that a strip works on, relative to the block's first key.
pub(super) struct Window {
    /// Holds all keys that the strip sees.
    pub(super) seen: Range<usize>,
    /// The same in whole vectors.
    pub(super) computed: Range<usize>,
}

impl Strips {
    pub(super) fn new(mask: &Mask, sequence: usize, queries: Range<usize>) -> Self {
        let end = queries.end;
        let strip = |first: usize| {
            let queries = first..end.min(first + STRIP);
            Strip { keys: mask.block_range(sequence, queries.clone()), queries }
        };
        Self { all: queries.step_by(STRIP).map(strip).collect() }
    }

    /// Returns the first key of each block that one of the strips may see.
    pub(super) fn key_blocks(&self) -> impl Iterator<Item = usize> + use<> {
        let seen = self.all.iter().map(|strip| &strip.keys).filter(|keys| !keys.is_empty());
        let (start, end) = seen
            .fold((usize::MAX, 0), |(start, end), keys| (start.min(keys.start), end.max(keys.end)));
        let first = if end == 0 { 0 } else { start - start % KEYS };
        (first..end).step_by(KEYS)
    }
}

impl Strip {
    /// Returns what the strip sees of the block of keys that begins at `first`.
    pub(super) fn window(&self, first: usize) -> Option<Window> {
        let start = self.keys.start.max(first);
        let end = self.keys.end.min(first + KEYS);
        (start < end).then(|| {
            let seen = start - first..end - first;
            let computed = seen.start - seen.start % PAD..seen.end.next_multiple_of(PAD);
            Window { seen, computed }
        })
    }

    /// Multiplies the strip's rows by a transposed block of keys; rows of the result are [`KEYS`] apart.
    pub(super) fn scores(
        &self,
        rows: &Rows,
        keys: &[f32],
        width: usize,
        window: &Window,
        scores: &mut [f32],
    ) {
        let start = window.computed.start;
        Product {
            out: (&mut scores[start..], KEYS),
            left: (Left::Rows(rows.at(self.queries.start)), rows.stride),
            right: (&keys[start..], KEYS),
            shape: [self.queries.len(), window.computed.len(), width],
            accumulate: false,
        }
        .compute();
    }
}

/// Zeroes what lies outside a query's range in its row of a block of keys and returns what lies inside.
#[inline(always)]
pub(super) fn cut<'a>(row: &'a mut [f32], first: usize, range: &Range<usize>) -> &'a mut [f32] {
    let end = range.end.saturating_sub(first).min(row.len());
    let start = range.start.saturating_sub(first).min(end);
    let (row, after) = row.split_at_mut(end);
    let (before, inside) = row.split_at_mut(start);
    before.fill(0.0);
    after.fill(0.0);
    inside
}
