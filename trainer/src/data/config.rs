//! The `[data]` table.

use std::{fmt, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Kind of training data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SourceName {
    /// Text files, one document each.
    Text,
    /// JSON lines, one document a line.
    Jsonl,
    /// Raw little-endian token ids, read from disk where needed.
    Tokens,
    /// Made-up tokens, a pure function of seed and position.
    #[default]
    Synthetic,
}

impl fmt::Display for SourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Jsonl => "jsonl",
            Self::Tokens => "tokens",
            Self::Synthetic => "synthetic",
        })
    }
}

/// Width of a token id in a `tokens` file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TokenWidth {
    /// Unsigned 16-bit, for vocabularies up to 65,536.
    #[default]
    U16,
    /// Unsigned 32-bit.
    U32,
}

impl TokenWidth {
    /// Returns the bytes of one token.
    pub fn num_bytes(self) -> usize {
        match self {
            Self::U16 => 2,
            Self::U32 => 4,
        }
    }

    /// Returns the largest id the width holds.
    pub fn max_id(self) -> u32 {
        match self {
            Self::U16 => u32::from(u16::MAX),
            Self::U32 => u32::MAX,
        }
    }

    /// Returns the narrowest width that holds a vocabulary.
    pub fn for_vocab(vocab_size: usize) -> Self {
        if vocab_size <= 1 << 16 { Self::U16 } else { Self::U32 }
    }
}

impl fmt::Display for TokenWidth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::U16 => "u16",
            Self::U32 => "u32",
        })
    }
}

/// Chooses the data, how it becomes tokens and how tokens become sequences.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[expect(clippy::struct_excessive_bools, reason = "independent keys of a table")]
pub struct DataConfig {
    /// Kind of data.
    pub source: SourceName,
    /// Glob patterns of the input files, sorted by path; `text`, `jsonl` and `tokens` only.
    /// Relative to the working directory; `~/` is the home folder. `text` and `jsonl` are UTF-8, and
    /// expanded where a name ends in `.gz`; a text file and a JSON line have at most 1 GiB.
    pub files: Vec<String>,
    /// Key of the text in a JSON line; `jsonl` only. Default: `text`.
    pub field: Option<String>,
    /// Width of a token id; `tokens` only. Default: what the sidecar written by `data prepare`
    /// says, else `u16`.
    pub token_width: Option<TokenWidth>,
    /// `byte` (256 bytes plus an end-of-document id) or the path of a Hugging Face
    /// `tokenizer.json`; `text` and `jsonl` only. Default: `byte`.
    pub tokenizer: Option<String>,
    /// Id put after every document (`text`, `jsonl`), or that marks its end (`tokens`). Default:
    /// the tokenizer's own end-of-text id, or what the sidecar says, if there is one. Not for
    /// `synthetic`.
    pub eos_id: Option<u32>,
    /// Begins every document with the tokenizer's begin-of-text id, which must have one; `text` and
    /// `jsonl` only.
    pub add_bos: bool,
    /// Reads names of special tokens in a text, such as `<|end_of_text|>`, as these tokens. Without it
    /// they are text like any other. `text` and `jsonl` with a `tokenizer.json` only.
    pub parse_special_tokens: bool,
    /// Sets labels that would predict across a document boundary to -100, so that they add no loss.
    /// Needs an end-of-document id.
    pub mask_document_boundaries: bool,
    /// Visits the sequences of an epoch in an order drawn from `run.seed` and the epoch.
    pub shuffle: bool,
    /// Share of the sequences kept for validation, taken from the end, in [0, 1).
    #[schemars(range(min = 0.0, max = 1.0))]
    pub validation_fraction: f64,
    /// Glob patterns of separate validation files, of the same kind as `files`; excludes
    /// `validation_fraction`.
    pub validation_files: Vec<String>,
    /// Size of the made-up vocabulary, at least 2; `synthetic` only. Default: 256.
    pub vocab_size: Option<usize>,
    /// Number of made-up sequences in an epoch, at least 1; `synthetic` only. Default: 65,536.
    pub num_sequences: Option<u64>,
    /// Folder for tokenized copies of `text` and `jsonl`, reused while inputs and tokenizer are the
    /// same. Default: no copy is kept, the tokens are held in memory.
    pub cache_dir: Option<PathBuf>,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            source: SourceName::Synthetic,
            files: Vec::new(),
            field: None,
            token_width: None,
            tokenizer: None,
            eos_id: None,
            add_bos: false,
            parse_special_tokens: false,
            mask_document_boundaries: false,
            shuffle: true,
            validation_fraction: 0.0,
            validation_files: Vec::new(),
            vocab_size: None,
            num_sequences: None,
            cache_dir: None,
        }
    }
}
