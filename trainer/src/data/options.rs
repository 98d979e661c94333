//! Which batches a rank takes.

use super::DataError;

/// What happens to the sequences of an epoch that do not fill a global batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LastBatch {
    /// They are left out of the epoch; shuffling leaves out others every time.
    #[default]
    Drop,
    /// They are filled up with sequences whose labels are all ignored, so that each counts once and
    /// every rank has the same shapes.
    Pad,
}

impl LastBatch {
    /// Returns how many global batches so many sequences make.
    pub(crate) fn num_batches(self, num_sequences: u64, global_batch_size: usize) -> u64 {
        match self {
            Self::Drop => num_sequences / global_batch_size as u64,
            Self::Pad => num_sequences.div_ceil(global_batch_size as u64),
        }
    }
}

/// Chooses the batches of one data-parallel rank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoaderOptions {
    /// Seed of the shuffled order.
    pub seed: u64,
    /// Visits the sequences of each epoch in an order drawn from the seed and the epoch, else in
    /// stream order.
    pub shuffle: bool,
    /// Sequences per optimizer step over all ranks.
    pub global_batch_size: usize,
    /// Sequences per batch of this rank.
    pub micro_batch_size: usize,
    /// This rank's place among the data-parallel ranks.
    pub dp_rank: usize,
    /// Number of data-parallel ranks.
    pub dp_size: usize,
    /// What happens to the sequences that do not fill a global batch.
    pub last_batch: LastBatch,
    /// Numbers documents and the positions inside them in every batch; needs an end-of-document id.
    pub number_documents: bool,
}

impl LoaderOptions {
    /// Returns the options of the validation loader beside this one: never shuffled, and every
    /// sequence counts.
    #[must_use]
    pub fn for_validation(&self) -> Self {
        Self { shuffle: false, last_batch: LastBatch::Pad, ..self.clone() }
    }

    /// Checks that the global batch divides into the ranks and their micro-batches.
    pub(crate) fn check(&self) -> Result<(), DataError> {
        let LoaderOptions { global_batch_size: global, micro_batch_size, dp_rank, dp_size, .. } =
            *self;
        let at_least_one = |key, value: usize| match value {
            0 => Err(DataError::OutOfRange {
                key,
                value: "0".into(),
                constraint: "at least 1".into(),
            }),
            _ => Ok(()),
        };
        at_least_one("global_batch_size", global)?;
        at_least_one("micro_batch_size", micro_batch_size)?;
        at_least_one("dp_size", dp_size)?;
        if dp_rank >= dp_size {
            return Err(DataError::OutOfRange {
                key: "dp_rank",
                value: dp_rank.to_string(),
                constraint: format!("below the {dp_size} data-parallel ranks"),
            });
        }
        if !global.is_multiple_of(dp_size) {
            let parts = "the number of data-parallel ranks";
            return Err(DataError::Indivisible { global, parts, num_parts: dp_size });
        }
        if !(global / dp_size).is_multiple_of(micro_batch_size) {
            let parts = "`micro_batch_size` x data-parallel ranks";
            let num_parts = micro_batch_size.saturating_mul(dp_size);
            return Err(DataError::Indivisible { global, parts, num_parts });
        }
        Ok(())
    }
}
