//! Text to token ids: the built-in byte tokenizer and Hugging Face's `tokenizer.json`.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use serde::Serialize;
use serde_json::Value;

use super::{DataError, Fingerprint, TokenizerChoice, fingerprint::Hasher, input::count_lines};
use crate::files::read_regular;

/// Longest `tokenizer.json`, in bytes; the largest published ones have some thirty million.
const MOST_TOKENIZER_BYTES: u64 = 512 << 20;
/// Id the byte tokenizer puts after a document.
const BYTE_EOS: u32 = 256;

/// End-of-text tokens of well-known vocabularies, tried in order where no `tokenizer_config.json`
/// names one.
const END_OF_TEXT: [&str; 6] =
    ["<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "[EOS]"];

/// Begin-of-text tokens of well-known vocabularies, likewise.
const BEGIN_OF_TEXT: [&str; 5] = ["<|begin_of_text|>", "<s>", "<bos>", "<|bos|>", "[BOS]"];

/// How a tokenizer treats documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct TokenizerOptions {
    /// Reads names of special tokens in a text as these tokens. Without it they are text like any
    /// other.
    pub parse_special_tokens: bool,
    /// Begins each document with the tokenizer's begin-of-text id.
    pub add_bos: bool,
}

/// Turns documents into token ids.
pub struct Tokenizer {
    kind: Kind,
    name: String,
    vocab_size: usize,
    eos_id: Option<u32>,
    /// Begins each document, where that was asked for.
    bos_id: Option<u32>,
    fingerprint: Fingerprint,
}

enum Kind {
    Byte,
    HuggingFace(Box<tokenizers::Tokenizer>),
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("name", &self.name)
            .field("vocab_size", &self.vocab_size)
            .field("eos_id", &self.eos_id)
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Loads the chosen tokenizer.
    ///
    /// # Errors
    /// A file that is no tokenizer; one without a begin-of-text id where documents are to begin with
    /// it.
    pub fn load(choice: &TokenizerChoice, options: TokenizerOptions) -> Result<Self, DataError> {
        match choice {
            TokenizerChoice::Byte if options.add_bos => {
                Err(DataError::NoBeginOfDocument { tokenizer: "byte".into() })
            }
            TokenizerChoice::Byte if options.parse_special_tokens => Err(DataError::OutOfRange {
                key: "parse_special_tokens",
                value: "true".into(),
                constraint: "left out with the tokenizer `byte`, which has no special tokens"
                    .into(),
            }),
            TokenizerChoice::Byte => Ok(Self::byte()),
            TokenizerChoice::File(path) => Self::hugging_face(path, options),
        }
    }

    /// Returns the byte tokenizer: ids 0 to 255 are the bytes, 256 ends a document.
    pub fn byte() -> Self {
        Self {
            kind: Kind::Byte,
            name: "byte".into(),
            vocab_size: 257,
            eos_id: Some(BYTE_EOS),
            bos_id: None,
            fingerprint: Hasher::default().bytes(b"byte").finish(),
        }
    }

    fn hugging_face(path: &Path, options: TokenizerOptions) -> Result<Self, DataError> {
        let bytes = read_regular(path, MOST_TOKENIZER_BYTES)
            .map_err(|source| DataError::ReadTokenizer { path: path.to_path_buf(), source })?;
        let parse = |source| DataError::ParseTokenizer { path: path.to_path_buf(), source };
        let mut inner = parse_tokenizer(&bytes).map_err(parse)?;
        // A file may carry the truncation and padding of its model's inference; here they would
        // silently cut documents.
        inner.with_truncation(None).map_err(parse)?;
        inner.with_padding(None);
        inner.set_encode_special_tokens(!options.parse_special_tokens);
        // Ids may have holes, so the vocabulary reaches to the largest id.
        let max_id = inner.get_vocab(true).into_values().max();
        let special = |key, names| special_id(path, key, names, &inner);
        let eos_id = special("eos_token", &END_OF_TEXT)?;
        let bos_id = if options.add_bos {
            let found = special("bos_token", &BEGIN_OF_TEXT)?;
            let tokenizer = path.display().to_string();
            Some(found.ok_or(DataError::NoBeginOfDocument { tokenizer })?)
        } else {
            None
        };
        Ok(Self {
            kind: Kind::HuggingFace(Box::new(inner)),
            name: path.display().to_string(),
            vocab_size: max_id.map_or(0, |id| id as usize + 1),
            eos_id,
            bos_id,
            fingerprint: fingerprint(&bytes, options, bos_id),
        })
    }

    /// Returns `byte` or the path of the tokenizer.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Tells whether documents may be any bytes, not only UTF-8.
    pub(crate) fn takes_any_bytes(&self) -> bool {
        matches!(self.kind, Kind::Byte)
    }

    /// Returns the number of ids, from 0 to the largest.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Returns the id that ends a document: the given one, which must be in the vocabulary, else
    /// the tokenizer's own.
    pub fn eos_id(&self, given: Option<u32>) -> Result<Option<u32>, DataError> {
        match given {
            Some(id) if id as usize >= self.vocab_size => Err(DataError::OutOfRange {
                key: "eos_id",
                value: id.to_string(),
                constraint: format!(
                    "below the {} ids of the tokenizer `{}`",
                    self.vocab_size, self.name
                ),
            }),
            Some(id) => Ok(Some(id)),
            None => Ok(self.eos_id),
        }
    }

    /// Returns the id that begins every document, if one is to.
    pub fn bos_id(&self) -> Option<u32> {
        self.bos_id
    }

    /// Returns the name of the tokenizer by content.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Appends the ids of one document to `ids`, without special tokens around it. `path` is named
    /// in errors.
    ///
    /// # Errors
    /// A Hugging Face tokenizer refuses bytes that are not UTF-8, and characters it has no id for.
    pub fn encode(
        &self,
        document: &[u8],
        path: &Path,
        ids: &mut Vec<u32>,
    ) -> Result<(), DataError> {
        match &self.kind {
            Kind::Byte => ids.extend(document.iter().map(|&byte| u32::from(byte))),
            Kind::HuggingFace(inner) => {
                let line = |offset| 1 + count_lines(&document[..offset]);
                let text = std::str::from_utf8(document).map_err(|error| {
                    let offset = error.valid_up_to();
                    DataError::InvalidUtf8 { path: path.to_path_buf(), line: line(offset), offset }
                })?;
                let encode = guard(|| inner.encode_fast(text, false));
                let encoding = encode
                    .map_err(|source| DataError::Tokenize { path: path.to_path_buf(), source })?;
                ids.extend_from_slice(encoding.get_ids());
            }
        }
        Ok(())
    }
}

/// Names a tokenizer by everything that its ids depend on. Options that are off add nothing, so names
/// from before there were any stay valid.
fn fingerprint(bytes: &[u8], options: TokenizerOptions, bos_id: Option<u32>) -> Fingerprint {
    let mut hasher = Hasher::default().bytes(b"tokenizer.json").bytes(bytes);
    if options.parse_special_tokens {
        hasher = hasher.bytes(b"special tokens");
    }
    if let Some(id) = bos_id {
        hasher = hasher.bytes(b"begin of text").number(u64::from(id));
    }
    hasher.finish()
}

/// Reads a `tokenizer.json` without its decoder: no text is made of ids here.
fn parse_tokenizer(bytes: &[u8]) -> Result<tokenizers::Tokenizer, tokenizers::Error> {
    let mut value: Value = serde_json::from_slice(bytes)?;
    if let Some(fields) = value.as_object_mut() {
        fields.remove("decoder");
    }
    let bytes = serde_json::to_vec(&value)?;
    guard(|| tokenizers::Tokenizer::from_bytes(&bytes))
}

/// Runs a call of the tokenizer library and turns its panics into errors: it panics on some
/// malformed files.
fn guard<T>(call: impl FnOnce() -> Result<T, tokenizers::Error>) -> Result<T, tokenizers::Error> {
    // After a panic the tokenizer is not used again, so it may be left in any state.
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        let message = panic.downcast_ref::<String>().cloned();
        Err(message.unwrap_or_else(|| "the tokenizer library panicked".into()).into())
    })
}

/// Finds a special id: the token under `key` of `tokenizer_config.json` beside the tokenizer, else one
/// of well-known names.
fn special_id(
    path: &Path,
    key: &str,
    names: &[&str],
    inner: &tokenizers::Tokenizer,
) -> Result<Option<u32>, DataError> {
    let config = path.with_file_name("tokenizer_config.json");
    if let Some(token) = configured_token(&config, key)? {
        return Ok(inner.token_to_id(&token));
    }
    Ok(names.iter().find_map(|token| inner.token_to_id(token)))
}

/// Reads a token of `tokenizer_config.json`, which is a string or an object with the string as
/// `content`.
fn configured_token(config: &Path, key: &str) -> Result<Option<String>, DataError> {
    if !config.exists() {
        return Ok(None);
    }
    let bytes = read_regular(config, MOST_TOKENIZER_BYTES)
        .map_err(|source| DataError::ReadTokenizer { path: config.to_path_buf(), source })?;
    let value: Value = serde_json::from_slice(&bytes).map_err(|source| {
        DataError::ParseTokenizer { path: config.to_path_buf(), source: source.into() }
    })?;
    let token = value.get(key);
    let content = token.and_then(|token| token.get("content")).or(token);
    Ok(content.and_then(Value::as_str).map(str::to_owned))
}
