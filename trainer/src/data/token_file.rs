//! Token files and their in-memory twins: written from documents, opened for reading.

use std::{
    io::{self, Write},
    path::Path,
    sync::Arc,
};

use super::{
    DataError, Sidecar, TokenWidth,
    aside::AsideFile,
    bytes::StoreBytes,
    documents::{Documents, TokenizedChunk},
    stream::{TokenStore, TokenStream},
};

/// What was written.
#[derive(Default)]
struct Written {
    num_tokens: u64,
    num_documents: u64,
    num_empty: u64,
    num_bytes: u64,
    max_id: Option<u32>,
}

/// Tokenizes documents into a file and its sidecar; `progress` receives the input bytes done so
/// far.
pub(crate) fn write(
    documents: &Documents<'_>,
    width: TokenWidth,
    path: &Path,
    progress: &mut dyn FnMut(u64),
) -> Result<Sidecar, DataError> {
    let mut file = AsideFile::create(path)?;
    let written = write_to(&mut file, documents, width, path, progress)?;
    file.commit()?;
    let store =
        TokenStore { bytes: Arc::new(StoreBytes::open(path)?), width, max_id: written.max_id };
    let sidecar = Sidecar {
        version: Sidecar::CURRENT_VERSION,
        width,
        num_tokens: written.num_tokens,
        num_documents: written.num_documents,
        num_empty_documents: written.num_empty,
        max_id: written.max_id,
        eos_id: documents.eos_id,
        vocab_size: documents.tokenizer.vocab_size(),
        tokenizer: documents.tokenizer.name().into(),
        tokenizer_fingerprint: documents.tokenizer.fingerprint(),
        fingerprint: TokenStream::new(vec![store]).fingerprint()?,
    };
    sidecar.save(path)?;
    Ok(sidecar)
}

/// Tokenizes documents into memory.
pub(crate) fn in_memory(
    documents: &Documents<'_>,
    width: TokenWidth,
) -> Result<TokenStore, DataError> {
    let mut bytes = Vec::new();
    let written = write_to(&mut bytes, documents, width, Path::new("memory"), &mut |_| {})?;
    Ok(TokenStore { bytes: Arc::new(StoreBytes::Owned(bytes)), width, max_id: written.max_id })
}

/// Opens a token file. A width that is not given comes from the sidecar, else it is the default
/// one, unless the ids look like the other.
pub(crate) fn open(
    path: &Path,
    width: Option<TokenWidth>,
) -> Result<(TokenStore, Option<Sidecar>), DataError> {
    let sidecar = Sidecar::load(path)?;
    let described = sidecar.as_ref().map(|sidecar| sidecar.width);
    if let (Some(given), Some(described)) = (width, described)
        && given != described
    {
        return Err(DataError::WidthMismatch { path: path.to_path_buf(), given, described });
    }
    let known = width.or(described);
    let width = known.unwrap_or_default();
    let bytes = Arc::new(StoreBytes::open(path)?);
    let num_bytes = bytes.len();
    if known.is_none() && looks_like_u32(&bytes)? {
        return Err(DataError::LooksLikeU32 { path: path.to_path_buf() });
    }
    if !num_bytes.is_multiple_of(width.num_bytes() as u64) {
        return Err(DataError::PartialToken { path: path.to_path_buf(), bytes: num_bytes, width });
    }
    let max_id = sidecar.as_ref().and_then(|sidecar| sidecar.max_id);
    let store = TokenStore { bytes, width, max_id };
    if let Some(sidecar) = &sidecar {
        sidecar.check(path, &TokenStream::new(vec![store.clone()]))?;
    }
    Ok((store, sidecar))
}

/// Returns whether 16-bit ids are more likely the halves of 32-bit ones: every other one of the first
/// few thousand is next to nothing, and the ones between are not.
fn looks_like_u32(bytes: &StoreBytes) -> Result<bool, DataError> {
    /// Pairs that are looked at, and the fewest that tell anything.
    const PAIRS: (u64, u64) = (4096, 32);
    /// Largest upper half: vocabularies have fewer than half a million ids.
    const LARGEST_UPPER: u16 = 7;
    let pairs = (bytes.len() / 4).min(PAIRS.0);
    if pairs < PAIRS.1 || !bytes.len().is_multiple_of(4) {
        return Ok(false);
    }
    let mut start = vec![0; pairs as usize * 4];
    bytes.read(0, &mut start)?;
    let halves = start.as_chunks::<4>().0;
    let upper = |half: &[u8; 4]| u16::from_le_bytes([half[2], half[3]]) <= LARGEST_UPPER;
    let lower = |half: &[u8; 4]| u16::from_le_bytes([half[0], half[1]]) > LARGEST_UPPER;
    Ok(halves.iter().all(upper) && halves.iter().any(lower))
}

fn write_to(
    out: &mut impl Write,
    documents: &Documents<'_>,
    width: TokenWidth,
    path: &Path,
    progress: &mut dyn FnMut(u64),
) -> Result<Written, DataError> {
    let largest = documents.tokenizer.vocab_size().saturating_sub(1) as u32;
    if largest > width.max_id() {
        return Err(DataError::IdTooWide { max_id: largest, width });
    }
    let mut written = Written::default();
    documents.tokenize(&mut |chunk| {
        write_ids(out, &chunk.ids, width)
            .map_err(|source| DataError::Write { path: path.to_path_buf(), source })?;
        written.add(&chunk);
        progress(written.num_bytes);
        Ok(())
    })?;
    Ok(written)
}

fn write_ids(out: &mut impl Write, ids: &[u32], width: TokenWidth) -> io::Result<()> {
    let mut bytes = vec![0; ids.len() * width.num_bytes()];
    match width {
        TokenWidth::U16 => {
            for (bytes, id) in bytes.as_chunks_mut::<2>().0.iter_mut().zip(ids) {
                *bytes = (*id as u16).to_le_bytes();
            }
        }
        TokenWidth::U32 => {
            for (bytes, id) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(ids) {
                *bytes = id.to_le_bytes();
            }
        }
    }
    out.write_all(&bytes)
}

impl Written {
    fn add(&mut self, chunk: &TokenizedChunk) {
        self.num_tokens += chunk.ids.len() as u64;
        self.num_documents += chunk.num_documents;
        self.num_empty += chunk.num_empty;
        self.num_bytes += chunk.num_bytes;
        self.max_id = self.max_id.max(chunk.ids.iter().copied().max());
    }
}
