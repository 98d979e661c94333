//! The resolved `[data]` table: one variant a source.

use std::path::PathBuf;

use serde::Serialize;

use super::{DocumentFormat, TokenWidth, TokenizerOptions};
use crate::world::with_home;

/// What the data are, with every default filled in. Making one opens no file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DataPlan {
    /// Where tokens come from.
    pub source: SourcePlan,
    /// Whether an epoch visits the training sequences in a random order.
    pub shuffle: bool,
    /// Whether labels across a document boundary are ignored.
    pub mask_document_boundaries: bool,
    /// Where validation sequences come from.
    pub validation: ValidationPlan,
}

/// Where tokens come from.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SourcePlan {
    /// Documents to tokenize.
    Documents {
        /// How documents lie in the files.
        format: DocumentFormat,
        /// Glob patterns of the files.
        files: Vec<String>,
        /// How documents become ids.
        tokenizer: TokenizerChoice,
        /// What it makes of special tokens.
        options: TokenizerOptions,
        /// Id after each document, instead of the tokenizer's own.
        eos_id: Option<u32>,
        /// Folder of tokenized copies.
        cache_dir: Option<PathBuf>,
    },
    /// Token files to map.
    Tokens {
        /// Glob patterns of the files.
        files: Vec<String>,
        /// Width of an id, instead of what the sidecars say.
        width: Option<TokenWidth>,
        /// Id at the end of each document, instead of what the sidecars say.
        eos_id: Option<u32>,
    },
    /// Made-up tokens.
    Synthetic {
        /// Number of different ids.
        vocab_size: usize,
        /// Sequences in an epoch.
        num_sequences: u64,
    },
}

/// How documents become ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenizerChoice {
    /// Each byte is an id, and 256 ends a document.
    Byte,
    /// A Hugging Face `tokenizer.json`.
    File(PathBuf),
}

impl From<&str> for TokenizerChoice {
    fn from(value: &str) -> Self {
        if value == "byte" { Self::Byte } else { Self::File(with_home(value).into()) }
    }
}

/// Where validation sequences come from.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ValidationPlan {
    /// There are none.
    None,
    /// The last share of the training files' sequences.
    Fraction(f64),
    /// Files of their own, by glob pattern.
    Files(Vec<String>),
}
