//! The batches of one rank, step by step.

use super::{
    Batch, DataError, Dataset, Fingerprint, IGNORED_LABEL, LoaderOptions, LoaderState, Permutation,
    packing,
};

/// Deterministic stream of global batches, of which it builds the part of one data-parallel rank.
///
/// A step takes the next `global_batch_size` sequences of the epoch's order. They are split in
/// contiguous blocks over the data-parallel ranks and each block in contiguous micro-batches, so
/// what a step trains on depends on neither. An epoch follows the other without end.
#[derive(Debug, Clone)]
pub struct Loader {
    dataset: Dataset,
    options: LoaderOptions,
    steps_per_epoch: u64,
    epoch: u64,
    /// Sequences of the current epoch already taken by all ranks together.
    sequences: u64,
    /// Order of the current epoch; none in stream order.
    order: Option<Permutation>,
    fingerprint: Fingerprint,
}

impl Loader {
    /// Starts at the first step of the first epoch.
    ///
    /// # Errors
    /// The global batch must divide into the ranks and their micro-batches, and an epoch must hold
    /// one unless the last batch is padded.
    pub fn new(dataset: Dataset, options: LoaderOptions) -> Result<Self, DataError> {
        options.check()?;
        if options.number_documents && dataset.eos_id().is_none() {
            return Err(DataError::NoEndOfDocument { key: "document masks" });
        }
        let steps_per_epoch = steps_per_epoch(&dataset, &options)?;
        let fingerprint = dataset.fingerprint()?;
        let mut loader = Self {
            dataset,
            options,
            steps_per_epoch,
            epoch: 0,
            sequences: 0,
            order: None,
            fingerprint,
        };
        loader.draw_order();
        Ok(loader)
    }

    /// Returns the optimizer steps of an epoch.
    pub fn steps_per_epoch(&self) -> u64 {
        self.steps_per_epoch
    }

    /// Returns the epoch of the next step, from 0, which is the number of finished epochs.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Returns the sequences of the current epoch already taken by all ranks together.
    pub fn sequences(&self) -> u64 {
        self.sequences
    }

    /// Returns the steps that are left in the current epoch, at least 1.
    pub fn steps_left_in_epoch(&self) -> u64 {
        self.steps_left_after(self.sequences)
    }

    /// Returns the steps that are left in an epoch of which so many sequences are taken.
    pub(super) fn steps_left_after(&self, sequences: u64) -> u64 {
        let left = self.dataset.num_sequences().saturating_sub(sequences);
        self.options.last_batch.num_batches(left, self.options.global_batch_size)
    }

    /// Returns the data.
    pub fn dataset(&self) -> &Dataset {
        &self.dataset
    }

    /// Returns the options.
    pub fn options(&self) -> &LoaderOptions {
        &self.options
    }

    /// Builds this rank's micro-batches of the next step and goes on, into the next epoch where
    /// this one ends.
    ///
    /// # Errors
    /// A file that can no longer be read; an id that the model does not know.
    pub fn next_step(&mut self) -> Result<Vec<Batch>, DataError> {
        let LoaderOptions { global_batch_size, micro_batch_size, dp_rank, dp_size, .. } =
            self.options;
        let local_batch_size = global_batch_size / dp_size;
        let first = dp_rank * local_batch_size;
        let batches = (0..local_batch_size / micro_batch_size)
            .map(|i| self.batch(first + i * micro_batch_size))
            .collect::<Result<_, _>>()?;
        self.advance();
        Ok(batches)
    }

    /// Returns to the first step of the first epoch.
    pub fn rewind(&mut self) {
        (self.epoch, self.sequences) = (0, 0);
        self.draw_order();
    }

    /// Returns the position of the next step.
    pub fn state(&self) -> LoaderState {
        LoaderState {
            version: LoaderState::CURRENT_VERSION,
            epoch: self.epoch,
            sequences: self.sequences,
            seed: self.options.seed,
            shuffle: self.options.shuffle,
            fingerprint: self.fingerprint,
        }
    }

    /// Continues at a saved position: the next step begins with the sequence that followed it, on
    /// this mesh as on the one that saved it, and with another global batch size too. Sequences of
    /// the epoch that no longer fill a batch are left out or padded, as at the end of any epoch.
    ///
    /// # Errors
    /// The data, the seed and the shuffling must be those of the saved position.
    pub fn restore(&mut self, state: &LoaderState) -> Result<(), DataError> {
        state.check(&self.state())?;
        (self.epoch, self.sequences) = (state.epoch, state.sequences);
        self.wrap();
        Ok(())
    }

    fn advance(&mut self) {
        self.sequences += self.options.global_batch_size as u64;
        self.wrap();
    }

    /// Begins the next epoch where no step is left in this one.
    fn wrap(&mut self) {
        if self.steps_left_in_epoch() == 0 {
            self.epoch = self.epoch.saturating_add(1);
            self.sequences = 0;
        }
        self.draw_order();
    }

    fn draw_order(&mut self) {
        let draw = || Permutation::new(self.dataset.num_sequences(), self.options.seed, self.epoch);
        self.order = self.options.shuffle.then(draw);
    }

    /// Builds the micro-batch of the current step that begins with its sequence `first_sequence`.
    fn batch(&self, first_sequence: usize) -> Result<Batch, DataError> {
        let first = self.sequences + first_sequence as u64;
        let (num_sequences, length) =
            (self.options.micro_batch_size, self.dataset.sequence_length());
        let mut tokens = vec![0; num_sequences * length];
        let mut labels = vec![0; num_sequences * length];
        let rows = tokens.chunks_exact_mut(length).zip(labels.chunks_exact_mut(length));
        for ((tokens, labels), place) in rows.zip(first..) {
            if place < self.dataset.num_sequences() {
                let index = self.order.map_or(place, |order| order.apply(place));
                self.dataset.sequence(index, tokens, labels)?;
            } else {
                labels.fill(IGNORED_LABEL);
            }
        }
        let (documents, positions) = self.number_documents(&tokens).unzip();
        let step_in_epoch = self.sequences / self.options.global_batch_size as u64;
        let step = self.epoch.saturating_mul(self.steps_per_epoch).saturating_add(step_in_epoch);
        Ok(Batch {
            step,
            first_sequence,
            num_sequences,
            sequence_length: length,
            tokens,
            labels,
            documents,
            positions,
        })
    }

    fn number_documents(&self, tokens: &[i32]) -> Option<(Vec<i32>, Vec<i32>)> {
        let eos_id = self.dataset.eos_id().filter(|_| self.options.number_documents)? as i32;
        let length = self.dataset.sequence_length();
        let mut documents = vec![0; tokens.len()];
        let mut positions = vec![0; tokens.len()];
        let rows = tokens
            .chunks_exact(length)
            .zip(documents.chunks_exact_mut(length))
            .zip(positions.chunks_exact_mut(length));
        for ((tokens, documents), positions) in rows {
            packing::number_documents(tokens, eos_id, documents, positions);
        }
        Some((documents, positions))
    }
}

fn steps_per_epoch(dataset: &Dataset, options: &LoaderOptions) -> Result<u64, DataError> {
    let global_batch_size = options.global_batch_size;
    let num_sequences = dataset.num_sequences();
    let steps = options.last_batch.num_batches(num_sequences, global_batch_size);
    if steps == 0 {
        return Err(DataError::TooFewSequences { num_sequences, global_batch_size });
    }
    Ok(steps)
}
