//! What can be wrong with the data and its configuration.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{Fingerprint, SourceName, TokenWidth};

/// Error of configuring, reading, tokenizing or batching data.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the message of a variant spells out its fields")]
pub enum DataError {
    /// A key is set that the chosen source does not read.
    #[error("`data.{key}` belongs to the source {belongs_to}, but `data.source` is `{chosen}`")]
    KeyOfOtherSource { key: &'static str, belongs_to: &'static str, chosen: SourceName },
    /// A key is missing that the chosen source needs.
    #[error("`data.{key}` is empty, but `data.source` = `{chosen}` needs it")]
    MissingKey { key: &'static str, chosen: SourceName },
    /// Two keys are set that exclude each other.
    #[error("`data.{first}` and `data.{second}` are both given, but they exclude each other")]
    ExclusiveKeys { first: &'static str, second: &'static str },
    /// A value is outside its range.
    #[error("`{key}` is `{value}` but must be {constraint}")]
    OutOfRange { key: &'static str, value: String, constraint: String },
    /// A glob pattern does not parse.
    #[error("`{key}` holds `{pattern}`, which is no valid glob pattern")]
    InvalidPattern { key: &'static str, pattern: String, source: glob::PatternError },

    /// A glob pattern matches no file.
    #[error("no file matches `{pattern}`")]
    NoFiles { pattern: String },
    /// A folder named by a glob pattern cannot be listed.
    #[error("cannot list the files of `{pattern}`")]
    ListFiles { pattern: String, source: glob::GlobError },
    /// A file is training and validation data at once.
    #[error(
        "`{path}` is matched by both `data.files` and `data.validation_files`{}",
        also_known_as(.path, .train)
    )]
    FileInBothSplits { path: PathBuf, train: PathBuf },
    /// A file cannot be read.
    #[error("cannot read `{path}`")]
    Read { path: PathBuf, source: io::Error },
    /// A file cannot be written.
    #[error("cannot write `{path}`")]
    Write { path: PathBuf, source: io::Error },
    /// The output exists and overwriting was not asked for.
    #[error("`{path}` exists already")]
    AlreadyExists { path: PathBuf },
    /// The output is something else than a file.
    #[error("`{path}` exists and is no regular file, so it is not replaced")]
    OutputIsNoFile { path: PathBuf },
    /// The output is one of the inputs.
    #[error("the output `{path}` is also an input")]
    OutputIsInput { path: PathBuf },
    /// Text and JSON lines were given together.
    #[error(
        "`{jsonl}` holds JSON lines but `{text}` does not, so the kind of the inputs is not clear"
    )]
    MixedInputs { jsonl: PathBuf, text: PathBuf },

    /// A token file ends inside a token.
    #[error(
        "`{path}` has {bytes} bytes, which is not a multiple of {}, the bytes of one `{width}` token: {} left over",
        .width.num_bytes(),
        .bytes % .width.num_bytes() as u64
    )]
    PartialToken { path: PathBuf, bytes: u64, width: TokenWidth },
    /// A token file was cut short while it was in use.
    #[error(
        "`{path}` was cut short while it was in use: it has {found} bytes now, and had {expected}"
    )]
    CutShort { path: PathBuf, found: u64, expected: u64 },
    /// A token file of unknown width holds what are most likely 32-bit ids.
    #[error(
        "`{path}` has no sidecar, and its ids look like `u32` although `u16` is the default width"
    )]
    LooksLikeU32 { path: PathBuf },
    /// The configured width is not the one the file was written with.
    #[error("`data.token_width` is `{given}`, but the sidecar of `{path}` says `{described}`")]
    WidthMismatch { path: PathBuf, given: TokenWidth, described: TokenWidth },
    /// A token file is not the one its sidecar describes.
    #[error(
        "`{path}` is not the file its sidecar describes: {what} is {found}, the sidecar says {expected}"
    )]
    SidecarMismatch { path: PathBuf, what: &'static str, found: String, expected: String },
    /// A sidecar is not readable as one.
    #[error("`{path}` is no sidecar of a token file")]
    SidecarFormat { path: PathBuf, source: serde_json::Error },
    /// A sidecar was written by another version.
    #[error("`{path}` has sidecar version {found}, but this program reads version {supported}")]
    SidecarVersion { path: PathBuf, found: u32, supported: u32 },
    /// Token files hold ids of different tokenizers.
    #[error("`{second}` was written with another tokenizer or end-of-document id than `{first}`")]
    DifferentTokenizers { first: PathBuf, second: PathBuf },

    /// A text is not UTF-8, which a Hugging Face tokenizer needs.
    #[error("`{path}` line {line} is not UTF-8, at byte {offset} of the document")]
    InvalidUtf8 { path: PathBuf, line: u64, offset: usize },
    /// A text holds a zero byte, which no text does.
    #[error("`{path}` line {line} holds a zero byte, so it is no text")]
    ZeroByte { path: PathBuf, line: u64 },
    /// Compressed data whose name does not say so.
    #[error("`{path}` is compressed by gzip, but its name does not end in `.gz`")]
    UnnamedGzip { path: PathBuf },
    /// A text is UTF-16.
    #[error("`{path}` is UTF-16, by the mark at its start")]
    Utf16 { path: PathBuf },
    /// A line does not fit in memory.
    #[error("`{path}` line {line} is longer than {limit} bytes")]
    LineTooLong { path: PathBuf, line: u64, limit: u64 },
    /// Documents are to begin with an id that the tokenizer does not have.
    #[error("`data.add_bos` needs a begin-of-text id, but the tokenizer `{tokenizer}` has none")]
    NoBeginOfDocument { tokenizer: String },
    /// A line is no JSON object with a text.
    #[error("`{path}` line {line} column {column} is no JSON object with a text: {reason}")]
    JsonLine { path: PathBuf, line: u64, column: usize, reason: String },
    /// A JSON line lacks the field of the text.
    #[error("`{path}` line {line} has no field `{field}`; its fields are {present}")]
    MissingField { path: PathBuf, line: u64, field: String, present: String },
    /// The tokenizer's file cannot be read.
    #[error("cannot read the tokenizer `{path}`")]
    ReadTokenizer { path: PathBuf, source: io::Error },
    /// The tokenizer's file is not a Hugging Face `tokenizer.json`.
    #[error("`{path}` is no Hugging Face `tokenizer.json`")]
    ParseTokenizer { path: PathBuf, source: tokenizers::Error },
    /// The tokenizer refuses a document.
    #[error("the tokenizer cannot encode a document of `{path}`")]
    Tokenize { path: PathBuf, source: tokenizers::Error },
    /// A token id does not fit the width of the file.
    #[error("token ids reach {max_id}, but `{width}` holds ids up to {}", .width.max_id())]
    IdTooWide { max_id: u32, width: TokenWidth },
    /// Document boundaries are asked for, but nothing marks them.
    #[error("`{key}` needs an end-of-document id, but none is known")]
    NoEndOfDocument { key: &'static str },

    /// The data are shorter than one sequence.
    #[error("the data hold {num_tokens} tokens, but one sequence of {sequence_length} reads {}", .sequence_length + 1)]
    TooFewTokens { num_tokens: u64, sequence_length: usize },
    /// The validation share leaves a split empty.
    #[error(
        "`data.validation_fraction` = {fraction} of {num_sequences} sequences leaves the {split} split empty"
    )]
    EmptySplit { split: &'static str, fraction: f64, num_sequences: u64 },
    /// A token id is outside the model's vocabulary.
    #[error("the data hold the token id {max_id}, but the model's vocabulary has {model_vocab} ids, 0 to {}", .model_vocab.saturating_sub(1))]
    VocabTooSmall { max_id: u32, model_vocab: usize },

    /// A token id in a file is outside the model's vocabulary.
    #[error("token {position} of `{path}` is the id {id}, but the model's vocabulary has {model_vocab} ids, 0 to {}", .model_vocab.saturating_sub(1))]
    ForeignId { path: PathBuf, position: u64, id: u32, model_vocab: usize },

    /// A batch size does not divide into equal parts.
    #[error("`global_batch_size` = {global} is not a multiple of {parts} = {num_parts}")]
    Indivisible { global: usize, parts: &'static str, num_parts: usize },
    /// An epoch holds less than one global batch.
    #[error(
        "an epoch has {num_sequences} sequences, fewer than one global batch of {global_batch_size}"
    )]
    TooFewSequences { num_sequences: u64, global_batch_size: usize },
    /// The data differ from those of the saved position.
    #[error(
        "the data have the fingerprint `{current}`, but the saved position belongs to data `{saved}`"
    )]
    ChangedData { saved: Fingerprint, current: Fingerprint },
    /// A setting that decides the order of the data differs from the saved one.
    #[error(
        "{key} is `{current}`, but the saved position belongs to an order drawn with `{saved}`"
    )]
    ChangedOrder { key: &'static str, saved: String, current: String },
    /// The saved position was written by another version.
    #[error(
        "the saved data position has version {found}, but this program reads version {supported}"
    )]
    StateVersion { found: u32, supported: u32 },
    /// The thread that prepares batches is gone.
    #[error("the thread that prepares batches stopped: {message}")]
    PrefetchStopped { message: String },
    /// The thread that prepares batches cannot be started.
    #[error("cannot start the thread that prepares batches")]
    StartPrefetch { source: io::Error },
}

/// Names the training file where a validation file has another spelling.
fn also_known_as(path: &Path, train: &Path) -> String {
    if path == train {
        return String::new();
    }
    format!(", there as `{}`", train.display())
}

impl DataError {
    /// Returns what the user can do about the error, where there is one thing to do.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::KeyOfOtherSource { .. } => "remove the key or choose a source that reads it",
            Self::NoFiles { .. } => "patterns are relative to the working directory",
            Self::FileInBothSplits { .. } => {
                "narrow one of the patterns, so that validation data are not trained on"
            }
            Self::AlreadyExists { .. } => "choose another output or pass --force to replace it",
            Self::MixedInputs { .. } => "name the kind with --source text or --source jsonl",
            Self::PartialToken { .. } => {
                "the file is truncated, or `data.token_width` is not the width it was written with"
            }
            Self::LooksLikeU32 { .. } => "set `data.token_width` to the width it was written with",
            Self::CutShort { .. } => "replace token files by renaming a new one, not in place",
            Self::WidthMismatch { .. } => "leave `data.token_width` out, or correct it",
            Self::SidecarMismatch { .. } => {
                "copy the file again together with its `.json`, or remove the sidecar if the file was replaced on purpose"
            }
            Self::SidecarFormat { .. } | Self::SidecarVersion { .. } => {
                "write the token file again with `dream-train data prepare`, or remove the sidecar"
            }
            Self::Utf16 { .. } => "convert the file to UTF-8",
            Self::UnnamedGzip { .. } => "name it `.gz`, or expand it",
            Self::InvalidUtf8 { .. } | Self::ZeroByte { .. } => {
                "convert the file to UTF-8 or use the `byte` tokenizer"
            }
            Self::MissingField { .. } => "set `data.field` to the key that holds the text",
            Self::ReadTokenizer { .. } => {
                "`data.tokenizer` is `byte` or the path of a `tokenizer.json`"
            }
            Self::IdTooWide { .. } => "use the token width `u32`",
            Self::NoEndOfDocument { .. } => "set `data.eos_id` to the id that ends every document",
            Self::TooFewTokens { .. } => {
                "add data or shorten `training_parameters.sequence_length`"
            }
            Self::EmptySplit { .. } => "change the fraction, or add data",
            Self::VocabTooSmall { .. } | Self::ForeignId { .. } => {
                "raise the model's vocabulary size, or use the tokenizer of the model"
            }
            Self::TooFewSequences { .. } => {
                "add data, or lower `training_parameters.global_batch_size` or `sequence_length`"
            }
            Self::ChangedData { .. } | Self::ChangedOrder { .. } => {
                "resume with the data and settings the run was started with, or start a new run from its weights"
            }
            _ => return None,
        })
    }

    /// Returns whether the configuration alone shows the error, before any file is opened.
    pub fn is_configuration(&self) -> bool {
        matches!(
            self,
            Self::KeyOfOtherSource { .. }
                | Self::MissingKey { .. }
                | Self::ExclusiveKeys { .. }
                | Self::OutOfRange { .. }
                | Self::InvalidPattern { .. }
                | Self::Indivisible { .. }
        )
    }
}
