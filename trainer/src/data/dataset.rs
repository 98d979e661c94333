//! Sequences of fixed length over a source of tokens.

use std::{fmt, sync::Arc};

use super::{
    DataError, Fingerprint, fingerprint::Hasher, packing, stream::TokenStream, synthetic::Synthetic,
};

/// The training and validation sequences of a run.
#[derive(Debug, Clone)]
pub struct Splits {
    /// Sequences to train on.
    pub train: Dataset,
    /// Sequences to validate on, if any are kept for it.
    pub validation: Option<Dataset>,
}

impl Splits {
    /// Keeps both splits to the ids that a model of `model_vocab` knows, as
    /// [`Dataset::for_vocab`] does.
    ///
    /// # Errors
    /// A larger id in the data.
    pub fn for_vocab(self, model_vocab: usize) -> Result<Self, DataError> {
        let validation = self.validation.map(|split| split.for_vocab(model_vocab)).transpose()?;
        Ok(Self { train: self.train.for_vocab(model_vocab)?, validation })
    }
}

/// Sequences of fixed length, found by index. A clone shares the tokens: open once a process and
/// pass clones to its ranks.
#[derive(Clone)]
pub struct Dataset {
    pub(crate) content: Arc<Content>,
    /// Index of the first sequence of this split.
    pub(crate) first: u64,
    pub(crate) num_sequences: u64,
    pub(crate) sequence_length: usize,
    pub(crate) mask_document_boundaries: bool,
    /// Number of ids of the model, once it is known: larger ones are errors where they are read.
    pub(crate) model_vocab: Option<usize>,
}

/// Tokens and what is known of them.
pub(crate) struct Content {
    pub(crate) tokens: Tokens,
    /// Size of the vocabulary, where a tokenizer or sidecar states it.
    pub(crate) vocab_size: Option<usize>,
    pub(crate) eos_id: Option<u32>,
    /// What the tokens are, as users read it.
    pub(crate) description: String,
}

pub(crate) enum Tokens {
    Stream(TokenStream),
    Synthetic(Synthetic),
}

impl fmt::Debug for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Dataset").field(&self.describe()).finish()
    }
}

impl Dataset {
    /// Returns the number of sequences of an epoch.
    pub fn num_sequences(&self) -> u64 {
        self.num_sequences
    }

    /// Returns the tokens of a sequence.
    pub fn sequence_length(&self) -> usize {
        self.sequence_length
    }

    /// Returns the number of tokens an epoch trains on.
    pub fn num_tokens(&self) -> u64 {
        self.num_sequences.saturating_mul(self.sequence_length as u64)
    }

    /// Returns the size of the vocabulary: what the tokenizer or sidecar states, else one more than
    /// the largest id, which scans the tokens.
    ///
    /// # Errors
    /// A file that can no longer be read.
    pub fn vocab_size(&self) -> Result<usize, DataError> {
        match self.content.vocab_size {
            Some(stated) => Ok(stated),
            None => Ok(self.max_id()?.map_or(0, |id| id as usize + 1)),
        }
    }

    /// Returns the id that ends a document, if one is known.
    pub fn eos_id(&self) -> Option<u32> {
        self.content.eos_id
    }

    /// Returns whether labels across a document boundary are ignored.
    pub fn masks_document_boundaries(&self) -> bool {
        self.mask_document_boundaries
    }

    /// Keeps the data to the ids that a model of `model_vocab` knows: a larger one has no embedding.
    ///
    /// Files without a sidecar are scanned now, in parallel and once. What a sidecar says is
    /// believed now, and every id is looked at where it is read.
    ///
    /// # Errors
    /// The first id that the model does not know, with its file and place.
    pub fn for_vocab(self, model_vocab: usize) -> Result<Self, DataError> {
        match &self.content.tokens {
            Tokens::Stream(stream) => stream.check_vocab(model_vocab)?,
            Tokens::Synthetic(synthetic) if synthetic.vocab_size > model_vocab => {
                let max_id = synthetic.vocab_size as u32 - 1;
                return Err(DataError::VocabTooSmall { max_id, model_vocab });
            }
            Tokens::Synthetic(_) => {}
        }
        Ok(Self { model_vocab: Some(model_vocab), ..self })
    }

    fn max_id(&self) -> Result<Option<u32>, DataError> {
        match &self.content.tokens {
            Tokens::Stream(stream) => stream.max_id(),
            Tokens::Synthetic(synthetic) => Ok(Some(synthetic.vocab_size as u32 - 1)),
        }
    }

    /// Writes the tokens and labels of a sequence; the label of a token is the next token, or
    /// [`IGNORED_LABEL`](super::IGNORED_LABEL).
    ///
    /// # Errors
    /// A file that can no longer be read; an id that the model does not know.
    ///
    /// # Panics
    /// If `index` is not below the number of sequences, or the slices are not of the sequence
    /// length.
    pub fn sequence(
        &self,
        index: u64,
        tokens: &mut [i32],
        labels: &mut [i32],
    ) -> Result<(), DataError> {
        assert!(index < self.num_sequences, "sequence {index} of {}", self.num_sequences);
        assert_eq!((tokens.len(), labels.len()), (self.sequence_length, self.sequence_length));
        let index = self.first + index;
        match &self.content.tokens {
            Tokens::Synthetic(synthetic) => synthetic.read(index, tokens, labels),
            Tokens::Stream(stream) => {
                let (last, rest) =
                    labels.split_last_mut().expect("sequences have at least one token");
                let start = index * self.sequence_length as u64;
                let (end, limit) = (start + self.sequence_length as u64, self.model_vocab);
                stream.read(start, tokens, limit)?;
                stream.read(end, std::slice::from_mut(last), limit)?;
                rest.copy_from_slice(&tokens[1..]);
            }
        }
        if let (true, Some(eos_id)) = (self.mask_document_boundaries, self.content.eos_id) {
            packing::mask_boundaries(tokens, labels, eos_id as i32);
        }
        Ok(())
    }

    /// Describes the data in one line, as users read it.
    pub fn describe(&self) -> String {
        format!(
            "{} sequences of {} tokens from {}",
            self.num_sequences, self.sequence_length, self.content.description
        )
    }

    /// Names the sequences by content, so that a saved position is not applied to others.
    ///
    /// # Errors
    /// A file that can no longer be read.
    pub fn fingerprint(&self) -> Result<Fingerprint, DataError> {
        let hasher = match &self.content.tokens {
            Tokens::Stream(stream) => {
                Hasher::default().bytes(b"stream").number(stream.fingerprint()?.0)
            }
            Tokens::Synthetic(synthetic) => Hasher::default()
                .bytes(b"synthetic")
                .number(synthetic.seed)
                .number(synthetic.vocab_size as u64),
        };
        Ok(hasher
            .number(self.first)
            .number(self.num_sequences)
            .number(self.sequence_length as u64)
            .finish())
    }
}
