//! Tokenized copies of documents, kept in a folder and reused while nothing changed.

use std::{io::Read, path::Path};

use rayon::prelude::*;
use xxhash_rust::xxh3::Xxh3;

use super::{
    DataError, DocumentFormat, Fingerprint, TokenWidth, documents::Documents, files,
    fingerprint::Hasher, stream::TokenStore, token_file,
};

/// Changes when the same inputs would give other tokens.
const VERSION: u64 = 2;

/// Opens the tokenized copy of documents, writing it first where there is none.
///
/// The name of a copy is a hash of everything its tokens depend on: the inputs' content, their
/// format, the tokenizer and the end-of-document id. Processes that write the same copy at once
/// write it aside and rename, so each reads a whole one.
pub(crate) fn open(
    documents: &Documents<'_>,
    width: TokenWidth,
    folder: &Path,
) -> Result<TokenStore, DataError> {
    let path = folder.join(format!("{}.tokens", key(documents)?));
    match token_file::open(&path, Some(width)) {
        Ok((store, Some(_))) => return Ok(store),
        // The sidecar is written last, so without one the writer was interrupted.
        Ok((_, None)) => {}
        Err(DataError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the cached tokens are damaged and are written again");
        }
    }
    token_file::write(documents, width, &path, &mut |_| {})?;
    token_file::open(&path, Some(width)).map(|(store, _)| store)
}

fn key(documents: &Documents<'_>) -> Result<Fingerprint, DataError> {
    let hashes: Vec<u64> =
        documents.files.par_iter().map(|path| hash_file(path)).collect::<Result<_, DataError>>()?;
    let format: &[u8] = match documents.format {
        DocumentFormat::Text => b"text",
        DocumentFormat::Jsonl { field } => field.as_bytes(),
    };
    let is_jsonl = matches!(documents.format, DocumentFormat::Jsonl { .. });
    let hasher = Hasher::default()
        .number(VERSION)
        .number(u64::from(is_jsonl))
        .bytes(format)
        .number(documents.tokenizer.fingerprint().0)
        .number(documents.eos_id.map_or(u64::MAX, u64::from));
    Ok(hashes.into_iter().fold(hasher, Hasher::number).finish())
}

fn hash_file(path: &Path) -> Result<u64, DataError> {
    let (mut file, _) = files::open_sized(path)?;
    let mut hasher = Xxh3::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file
            .read(&mut buffer)
            .map_err(|source| DataError::Read { path: path.to_path_buf(), source })?;
        if read == 0 {
            return Ok(hasher.digest());
        }
        hasher.update(&buffer[..read]);
    }
}
