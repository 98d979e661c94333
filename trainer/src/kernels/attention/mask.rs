//! Which keys a query sees, as ranges: whole blocks are skipped, rows are cut, documents are compared.

use std::collections::BTreeMap;
use std::ops::Range;

use super::operation::Geometry;
use super::options::AttentionOptions;
use crate::kernels::flex;

/// The keys each query sees.
#[derive(Debug)]
pub(super) struct Mask {
    /// For each query, of each sequence where documents differ: the range that holds all keys it sees.
    ranges: Vec<Range<usize>>,
    queries: usize,
    documents: Option<Documents>,
}

#[derive(Debug)]
struct Documents {
    of_queries: Vec<i64>,
    of_keys: Vec<i64>,
    keys: usize,
}

impl Mask {
    pub(super) fn new(options: &AttentionOptions, geometry: &Geometry) -> Self {
        let Geometry { batch, queries, keys, .. } = *geometry;
        let by_position = (0..queries).map(|query| by_position(options, query, keys));
        let Some(of_queries) = options.documents.clone() else {
            return Self { ranges: by_position.collect(), queries, documents: None };
        };
        let of_keys = options.key_documents.clone().unwrap_or_else(|| of_queries.clone());
        let (of_queries, of_keys) = (flex::integers(of_queries), flex::integers(of_keys));
        assert_eq!(of_queries.len(), batch * queries, "every query needs a document");
        assert_eq!(of_keys.len(), batch * keys, "every key needs a document");
        let by_position: Vec<_> = by_position.collect();
        let mut ranges = Vec::with_capacity(batch * queries);
        for sequence in 0..batch {
            let extents = extents(&of_keys[sequence * keys..(sequence + 1) * keys]);
            for query in 0..queries {
                let document = of_queries[sequence * queries + query];
                let extent = extents.get(&document).cloned().unwrap_or(0..0);
                ranges.push(intersection(&by_position[query], &extent));
            }
        }
        Self { ranges, queries, documents: Some(Documents { of_queries, of_keys, keys }) }
    }

    /// Returns the range of keys that holds all a query sees.
    pub(super) fn range(&self, sequence: usize, query: usize) -> Range<usize> {
        let sequence = if self.documents.is_some() { sequence } else { 0 };
        self.ranges[sequence * self.queries + query].clone()
    }

    /// Returns the range of keys that holds all that the queries of a block see.
    pub(super) fn block_range(&self, sequence: usize, queries: Range<usize>) -> Range<usize> {
        queries
            .map(|query| self.range(sequence, query))
            .filter(|range| !range.is_empty())
            .reduce(|a, b| a.start.min(b.start)..a.end.max(b.end))
            .unwrap_or(0..0)
    }

    /// Sets the scores of keys from other documents to negative infinity; `scores[0]` belongs to key `first`.
    #[inline(always)]
    pub(super) fn hide_documents(
        &self,
        sequence: usize,
        query: usize,
        first: usize,
        scores: &mut [f32],
    ) {
        if let Some(documents) = &self.documents {
            let document = documents.of_queries[sequence * self.queries + query];
            let start = sequence * documents.keys + first;
            let of_keys = &documents.of_keys[start..start + scores.len()];
            for (score, of_key) in scores.iter_mut().zip(of_keys) {
                *score = if *of_key == document { *score } else { f32::NEG_INFINITY };
            }
        }
    }
}

/// Returns the keys that causality and the window admit.
fn by_position(options: &AttentionOptions, query: usize, keys: usize) -> Range<usize> {
    let position = options.query_offset + query;
    let index = |position: usize| position.saturating_sub(options.key_offset).min(keys);
    let window = options.window.unwrap_or(usize::MAX);
    let first = index(position.saturating_add(1).saturating_sub(window));
    let end = if options.causal { position + 1 } else { position.saturating_add(window) };
    let end = index(end);
    first.min(end)..end
}

/// Returns each document's first key and the end of its last.
fn extents(of_keys: &[i64]) -> BTreeMap<i64, Range<usize>> {
    let mut extents = BTreeMap::new();
    for (key, document) in of_keys.iter().enumerate() {
        extents.entry(*document).or_insert(key..key).end = key + 1;
    }
    extents
}

fn intersection(a: &Range<usize>, b: &Range<usize>) -> Range<usize> {
    let start = a.start.max(b.start);
    start..a.end.min(b.end).max(start)
}
