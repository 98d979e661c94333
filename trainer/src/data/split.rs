//! Cuts tokens into sequences and keeps some of them for validation.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use super::{
    DataError, DataPlan, Dataset, Splits, ValidationPlan,
    dataset::{Content, Tokens},
    files,
    stream::TokenStream,
    synthetic::Synthetic,
};

/// Tokens of files and what is known of them.
pub(crate) struct Opened {
    pub(crate) stream: TokenStream,
    pub(crate) vocab_size: Option<usize>,
    pub(crate) eos_id: Option<u32>,
    pub(crate) description: String,
}

/// Cuts tokens into sequences and splits them as the plan says.
pub(crate) struct Cutter<'a> {
    pub(crate) plan: &'a DataPlan,
    pub(crate) sequence_length: usize,
}

impl Cutter<'_> {
    /// Splits made-up sequences.
    pub(crate) fn synthetic(&self, synthetic: Synthetic) -> Result<Splits, DataError> {
        let content = Content {
            vocab_size: Some(synthetic.vocab_size),
            eos_id: None,
            description: format!("a made-up source of {} ids", synthetic.vocab_size),
            tokens: Tokens::Synthetic(synthetic),
        };
        self.split_end(&self.dataset(content, synthetic.num_sequences))
    }

    /// Opens, cuts and splits the files of patterns.
    pub(crate) fn files(
        &self,
        patterns: &[String],
        open: &dyn Fn(&[PathBuf]) -> Result<Opened, DataError>,
    ) -> Result<Splits, DataError> {
        let train_files = files::expand_globs("data.files", patterns)?;
        let ValidationPlan::Files(patterns) = &self.plan.validation else {
            return self.split_end(&self.cut(open(&train_files)?)?);
        };
        let validation_files = files::expand_globs("data.validation_files", patterns)?;
        let mut trained_on = BTreeMap::new();
        for path in &train_files {
            trained_on.insert(files::identity(path)?, path);
        }
        for path in &validation_files {
            if let Some(train) = trained_on.get(&files::identity(path)?) {
                let (path, train) = (path.clone(), (*train).clone());
                return Err(DataError::FileInBothSplits { path, train });
            }
        }
        let (train, validation) = (open(&train_files)?, open(&validation_files)?);
        if differ(train.vocab_size, validation.vocab_size)
            || differ(train.eos_id, validation.eos_id)
        {
            return Err(DataError::DifferentTokenizers {
                first: train_files[0].clone(),
                second: validation_files[0].clone(),
            });
        }
        Ok(Splits { train: self.cut(train)?, validation: Some(self.cut(validation)?) })
    }

    fn cut(&self, opened: Opened) -> Result<Dataset, DataError> {
        if self.plan.mask_document_boundaries && opened.eos_id.is_none() {
            return Err(DataError::NoEndOfDocument { key: "data.mask_document_boundaries" });
        }
        let num_tokens = opened.stream.num_tokens();
        // Each sequence reads one token past its end, the label of its last.
        let num_sequences = num_tokens.saturating_sub(1) / self.sequence_length as u64;
        if num_sequences == 0 {
            return Err(DataError::TooFewTokens {
                num_tokens,
                sequence_length: self.sequence_length,
            });
        }
        let content = Content {
            tokens: Tokens::Stream(opened.stream),
            vocab_size: opened.vocab_size,
            eos_id: opened.eos_id,
            description: opened.description,
        };
        Ok(self.dataset(content, num_sequences))
    }

    fn dataset(&self, content: Content, num_sequences: u64) -> Dataset {
        Dataset {
            content: Arc::new(content),
            first: 0,
            num_sequences,
            sequence_length: self.sequence_length,
            mask_document_boundaries: self.plan.mask_document_boundaries,
            model_vocab: None,
        }
    }

    /// Keeps the last share of the sequences for validation, rounded down.
    fn split_end(&self, all: &Dataset) -> Result<Splits, DataError> {
        let ValidationPlan::Fraction(fraction) = self.plan.validation else {
            return Ok(Splits { train: all.clone(), validation: None });
        };
        let num_sequences = all.num_sequences;
        let num_validation = (num_sequences as f64 * fraction) as u64;
        let num_train = num_sequences - num_validation.min(num_sequences);
        for (split, size) in [("training", num_train), ("validation", num_validation)] {
            if size == 0 {
                return Err(DataError::EmptySplit { split, fraction, num_sequences });
            }
        }
        let train = Dataset { num_sequences: num_train, ..all.clone() };
        let validation = Dataset { first: num_train, num_sequences: num_validation, ..all.clone() };
        Ok(Splits { train, validation: Some(validation) })
    }
}

/// Returns whether two values are both known and not the same.
fn differ<T: PartialEq>(first: Option<T>, second: Option<T>) -> bool {
    first.zip(second).is_some_and(|(first, second)| first != second)
}
