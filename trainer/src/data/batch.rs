//! What a rank trains on at a time.

use super::IGNORED_LABEL;

/// Sequences of one forward pass.
///
/// # Shapes
/// Every vector is `[num_sequences, sequence_length]`, row by row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Number of the optimizer step it belongs to, from 0 at the first of the first epoch.
    pub step: u64,
    /// Number of its first sequence among those of the step, over all ranks.
    pub first_sequence: usize,
    /// Number of sequences.
    pub num_sequences: usize,
    /// Tokens of a sequence.
    pub sequence_length: usize,
    /// Token ids.
    pub tokens: Vec<i32>,
    /// Id to predict at each token, or [`IGNORED_LABEL`].
    pub labels: Vec<i32>,
    /// Number of the document each token belongs to, from 0 in every sequence, where asked for.
    pub documents: Option<Vec<i32>>,
    /// Position of each token inside its document, where asked for.
    pub positions: Option<Vec<i32>>,
}

impl Batch {
    /// Returns the number of labels that count.
    pub fn num_valid(&self) -> usize {
        self.labels.iter().filter(|label| **label != IGNORED_LABEL).count()
    }
}
