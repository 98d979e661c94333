//! Documents out of text and JSON-lines files, tokenized in parallel and handed on in order.

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Serialize;

use super::{
    DataError, Tokenizer, files,
    input::{self, LineLimits, count_lines},
    jsonl,
};

/// Bytes of documents tokenized together: enough to keep every thread busy, little enough to hold
/// in memory.
const CHUNK_BYTES: u64 = 16 << 20;
const LINE_LIMITS: LineLimits = LineLimits { chunk: CHUNK_BYTES, line: input::MOST_DOCUMENT_BYTES };

/// How documents lie in files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DocumentFormat {
    /// A file is a document.
    Text,
    /// A line is a JSON object, and the string under `field` is a document; blank lines are
    /// skipped.
    Jsonl {
        /// Key of the text.
        field: String,
    },
}

/// Ids of documents that follow each other in the input, each begun by the tokenizer's id for it if
/// that was asked for, and ended by the end-of-document id if there is one.
#[derive(Debug, Default)]
pub(crate) struct TokenizedChunk {
    pub(crate) ids: Vec<u32>,
    pub(crate) num_documents: u64,
    pub(crate) num_empty: u64,
    pub(crate) num_bytes: u64,
}

/// Files of documents and what makes ids of them.
pub(crate) struct Documents<'a> {
    pub(crate) format: &'a DocumentFormat,
    pub(crate) files: &'a [PathBuf],
    pub(crate) tokenizer: &'a Tokenizer,
    pub(crate) eos_id: Option<u32>,
}

/// Receives tokenized documents in input order.
pub(crate) type ChunkSink<'a> = dyn FnMut(TokenizedChunk) -> Result<(), DataError> + 'a;

impl Documents<'_> {
    /// Tokenizes every document and hands the ids to `sink`, in input order whatever the number of
    /// threads.
    ///
    /// A document without a token adds nothing, also no end-of-document id.
    pub(crate) fn tokenize(&self, sink: &mut ChunkSink<'_>) -> Result<(), DataError> {
        match self.format {
            DocumentFormat::Text => self.tokenize_texts(sink),
            DocumentFormat::Jsonl { field } => {
                self.files.iter().try_for_each(|path| self.tokenize_lines(path, field, sink))
            }
        }
    }

    fn tokenize_texts(&self, sink: &mut ChunkSink<'_>) -> Result<(), DataError> {
        let sizes = files::sizes(self.files)?;
        let mut start = 0;
        while start < self.files.len() {
            let end = start + num_in_chunk(&sizes[start..]);
            let chunks: Vec<_> = self.files[start..end]
                .par_iter()
                .map(|path| {
                    let text = input::read(path)?;
                    self.check_text(&text, path)?;
                    let mut chunk = TokenizedChunk::default();
                    self.append(&text, path, &mut chunk)?;
                    chunk.num_bytes = text.len() as u64;
                    Ok(chunk)
                })
                .collect();
            chunks.into_iter().try_for_each(|chunk| sink(chunk?))?;
            start = end;
        }
        Ok(())
    }

    /// Refuses a file with zero bytes where text is needed: it is UTF-16 without its mark, a file with
    /// holes or no text at all.
    fn check_text(&self, text: &[u8], path: &Path) -> Result<(), DataError> {
        match text.iter().position(|byte| *byte == 0) {
            Some(offset) if !self.tokenizer.takes_any_bytes() => Err(DataError::ZeroByte {
                path: path.to_path_buf(),
                line: 1 + count_lines(&text[..offset]),
            }),
            _ => Ok(()),
        }
    }

    fn tokenize_lines(
        &self,
        path: &Path,
        field: &str,
        sink: &mut ChunkSink<'_>,
    ) -> Result<(), DataError> {
        let mut lines = input::open(path)?;
        let mut first_line = 1;
        loop {
            let text = input::read_lines(&mut lines, LINE_LIMITS, path, first_line)?;
            if text.is_empty() {
                return Ok(());
            }
            let lines: Vec<_> = text.split_inclusive(|byte| *byte == b'\n').collect();
            let block_size = lines.len().div_ceil(4 * rayon::current_num_threads());
            let chunks: Vec<_> = lines
                .par_chunks(block_size)
                .zip((0..lines.len()).into_par_iter().step_by(block_size))
                .map(|(block, offset)| {
                    self.tokenize_block(block, path, field, first_line + offset as u64)
                })
                .collect();
            chunks.into_iter().try_for_each(|chunk| sink(chunk?))?;
            first_line += lines.len() as u64;
        }
    }

    fn tokenize_block(
        &self,
        lines: &[&[u8]],
        path: &Path,
        field: &str,
        first_line: u64,
    ) -> Result<TokenizedChunk, DataError> {
        let mut chunk = TokenizedChunk::default();
        for (&line, number) in lines.iter().zip(first_line..) {
            chunk.num_bytes += line.len() as u64;
            if !line.trim_ascii().is_empty() {
                let text = jsonl::text_of_line(line, field, path, number)?;
                self.append(text.as_bytes(), path, &mut chunk)?;
            }
        }
        Ok(chunk)
    }

    fn append(
        &self,
        document: &[u8],
        path: &Path,
        chunk: &mut TokenizedChunk,
    ) -> Result<(), DataError> {
        let before = chunk.ids.len();
        chunk.ids.extend(self.tokenizer.bos_id());
        let begun = chunk.ids.len();
        self.tokenizer.encode(document, path, &mut chunk.ids)?;
        if chunk.ids.len() == begun {
            chunk.ids.truncate(before);
            chunk.num_empty += 1;
        } else {
            chunk.ids.extend(self.eos_id);
            chunk.num_documents += 1;
        }
        Ok(())
    }
}

/// Returns how many of the first files are read together: at least one, together about a chunk.
fn num_in_chunk(sizes: &[u64]) -> usize {
    let mut total = 0u64;
    let fits = |size: &&u64| {
        total = total.saturating_add(**size);
        total <= CHUNK_BYTES
    };
    sizes.iter().take_while(fits).count().max(1)
}
