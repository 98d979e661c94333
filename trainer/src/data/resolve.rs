//! From the `[data]` table to its plan: every key checked against the source that reads it.

use super::{
    DataConfig, DataError, DataPlan, DocumentFormat, SourceName, SourcePlan, TokenizerChoice,
    TokenizerOptions, ValidationPlan,
};
use crate::world::{path_with_home, with_home};

impl DataConfig {
    /// Checks the table and fills in the defaults of its source, without opening a file.
    pub fn resolve(&self) -> Result<DataPlan, DataError> {
        self.check_keys()?;
        check_patterns("data.files", &self.files)?;
        check_patterns("data.validation_files", &self.validation_files)?;
        Ok(DataPlan {
            source: self.resolve_source()?,
            shuffle: self.shuffle,
            mask_document_boundaries: self.mask_document_boundaries,
            validation: self.resolve_validation()?,
        })
    }

    /// Refuses keys that the chosen source does not read, so that a setting without effect is never
    /// silent.
    fn check_keys(&self) -> Result<(), DataError> {
        const FROM_FILES: &[SourceName] =
            &[SourceName::Text, SourceName::Jsonl, SourceName::Tokens];
        const FROM_TEXT: &[SourceName] = &[SourceName::Text, SourceName::Jsonl];
        let keys: [(&'static str, bool, &[SourceName], &'static str); 12] = [
            ("files", !self.files.is_empty(), FROM_FILES, "`text`, `jsonl` or `tokens`"),
            (
                "validation_files",
                !self.validation_files.is_empty(),
                FROM_FILES,
                "`text`, `jsonl` or `tokens`",
            ),
            ("eos_id", self.eos_id.is_some(), FROM_FILES, "`text`, `jsonl` or `tokens`"),
            (
                "mask_document_boundaries",
                self.mask_document_boundaries,
                FROM_FILES,
                "`text`, `jsonl` or `tokens`",
            ),
            ("tokenizer", self.tokenizer.is_some(), FROM_TEXT, "`text` or `jsonl`"),
            ("cache_dir", self.cache_dir.is_some(), FROM_TEXT, "`text` or `jsonl`"),
            ("add_bos", self.add_bos, FROM_TEXT, "`text` or `jsonl`"),
            ("parse_special_tokens", self.parse_special_tokens, FROM_TEXT, "`text` or `jsonl`"),
            ("field", self.field.is_some(), &[SourceName::Jsonl], "`jsonl`"),
            ("token_width", self.token_width.is_some(), &[SourceName::Tokens], "`tokens`"),
            ("vocab_size", self.vocab_size.is_some(), &[SourceName::Synthetic], "`synthetic`"),
            (
                "num_sequences",
                self.num_sequences.is_some(),
                &[SourceName::Synthetic],
                "`synthetic`",
            ),
        ];
        for (key, is_set, sources, belongs_to) in keys {
            if is_set && !sources.contains(&self.source) {
                return Err(DataError::KeyOfOtherSource { key, belongs_to, chosen: self.source });
            }
        }
        Ok(())
    }

    fn resolve_source(&self) -> Result<SourcePlan, DataError> {
        if self.source != SourceName::Synthetic && self.files.is_empty() {
            return Err(DataError::MissingKey { key: "files", chosen: self.source });
        }
        match self.source {
            SourceName::Text => Ok(self.documents(DocumentFormat::Text)),
            SourceName::Jsonl => {
                let field = self.field.clone().unwrap_or_else(|| "text".into());
                Ok(self.documents(DocumentFormat::Jsonl { field }))
            }
            SourceName::Tokens => Ok(SourcePlan::Tokens {
                files: with_homes(&self.files),
                width: self.token_width,
                eos_id: self.eos_id,
            }),
            SourceName::Synthetic => {
                let vocab_size = self.vocab_size.unwrap_or(256);
                let num_sequences = self.num_sequences.unwrap_or(65_536);
                check_range(
                    "data.vocab_size",
                    &vocab_size,
                    (2..=i32::MAX as usize).contains(&vocab_size),
                    "in [2, 2147483647]",
                )?;
                check_range(
                    "data.num_sequences",
                    &num_sequences,
                    num_sequences >= 1,
                    "at least 1",
                )?;
                Ok(SourcePlan::Synthetic { vocab_size, num_sequences })
            }
        }
    }

    fn documents(&self, format: DocumentFormat) -> SourcePlan {
        SourcePlan::Documents {
            format,
            files: with_homes(&self.files),
            tokenizer: self
                .tokenizer
                .as_deref()
                .map_or(TokenizerChoice::Byte, TokenizerChoice::from),
            options: TokenizerOptions {
                parse_special_tokens: self.parse_special_tokens,
                add_bos: self.add_bos,
            },
            eos_id: self.eos_id,
            cache_dir: self.cache_dir.as_deref().map(path_with_home),
        }
    }

    fn resolve_validation(&self) -> Result<ValidationPlan, DataError> {
        let fraction = self.validation_fraction;
        check_range(
            "data.validation_fraction",
            &fraction,
            (0.0..1.0).contains(&fraction),
            "in [0, 1)",
        )?;
        match (fraction > 0.0, self.validation_files.is_empty()) {
            (true, false) => Err(DataError::ExclusiveKeys {
                first: "validation_fraction",
                second: "validation_files",
            }),
            (true, true) => Ok(ValidationPlan::Fraction(fraction)),
            (false, false) => Ok(ValidationPlan::Files(with_homes(&self.validation_files))),
            (false, true) => Ok(ValidationPlan::None),
        }
    }
}

fn with_homes(patterns: &[String]) -> Vec<String> {
    patterns.iter().map(|pattern| with_home(pattern)).collect()
}

fn check_patterns(key: &'static str, patterns: &[String]) -> Result<(), DataError> {
    for pattern in patterns {
        glob::Pattern::new(pattern).map_err(|source| DataError::InvalidPattern {
            key,
            pattern: pattern.clone(),
            source,
        })?;
    }
    Ok(())
}

fn check_range(
    key: &'static str,
    value: &impl ToString,
    is_inside: bool,
    constraint: &str,
) -> Result<(), DataError> {
    if is_inside {
        return Ok(());
    }
    Err(DataError::OutOfRange { key, value: value.to_string(), constraint: constraint.into() })
}
