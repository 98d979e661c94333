//! One safetensors file: streamed out with its checksum, memory-mapped in with its header checked.
//!
//! The header is parsed here instead of by `SafeTensors::deserialize`, whose size check overflows
//! on hostile offsets.
#![expect(unsafe_code, reason = "memory-mapping a file is unsafe")]

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::tensor::{Dtype, Metadata, SafeTensorError, TensorInfo};
use thiserror::Error;
use xxhash_rust::xxh3::Xxh3;

use crate::files::open_regular;

/// Bytes of the length field that opens a safetensors file.
const LENGTH_BYTES: usize = 8;
/// Header limit of the format.
const MAX_HEADER_BYTES: usize = 100_000_000;
/// Bytes written, and hashed, at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// What is wrong with a safetensors file.
#[derive(Debug, Error)]
#[error("safetensors file `{}` {kind}", path.display())]
pub struct TensorFileError {
    /// The file.
    pub path: PathBuf,
    /// The fault.
    #[source]
    pub kind: TensorFileErrorKind,
}

/// The fault of a safetensors file.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TensorFileErrorKind {
    /// The file does not exist.
    #[error("is missing")]
    Missing,
    /// It cannot be read.
    #[error("cannot be read")]
    Read(#[source] io::Error),
    /// It cannot be written.
    #[error("cannot be written")]
    Write(#[source] io::Error),
    /// It ends before its header does, or the header is too long.
    #[error("has {file_bytes} bytes, too few for its header of {header_bytes} bytes")]
    HeaderLength {
        /// Length that the file claims for its header.
        header_bytes: u64,
        /// Length of the file.
        file_bytes: u64,
    },
    /// The header is not what the format asks for.
    #[error("has a damaged header")]
    Header(#[source] serde_json::Error),
    /// The header cannot be written: two tensors of one name or the like.
    #[error("cannot hold these tensors")]
    Layout(#[source] SafeTensorError),
    /// The tensors do not end where the file ends.
    #[error("has {found} bytes but its header describes {expected}")]
    Length {
        /// Bytes of header and tensors.
        expected: u64,
        /// Length of the file.
        found: u64,
    },
}

impl TensorFileErrorKind {
    pub(crate) fn at(self, path: &Path) -> TensorFileError {
        TensorFileError { path: path.to_path_buf(), kind: self }
    }
}

/// A tensor to write.
pub(crate) struct TensorSource<'a> {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: &'a [u8],
}

/// Size and checksum of a file just written.
pub(crate) struct Written {
    pub(crate) bytes: u64,
    pub(crate) checksum: u64,
}

/// Creates `path`, streams `tensors` into it and syncs it to disk. An existing file is an error.
pub(crate) fn write(
    path: &Path,
    mut tensors: Vec<TensorSource<'_>>,
    metadata: Option<HashMap<String, String>>,
) -> Result<Written, TensorFileError> {
    // Wide elements first keeps every tensor aligned to its element, which lets readers use it in
    // place.
    tensors.sort_by(|a, b| b.dtype.bitsize().cmp(&a.dtype.bitsize()).then(a.name.cmp(&b.name)));
    let header = header(&tensors, metadata).map_err(|kind| kind.at(path))?;
    let parts = [&(header.len() as u64).to_le_bytes()[..], &header];
    let parts = parts.into_iter().chain(tensors.iter().map(|tensor| tensor.bytes));
    stream(path, parts).map_err(|error| TensorFileErrorKind::Write(error).at(path))
}

fn header(
    tensors: &[TensorSource<'_>],
    metadata: Option<HashMap<String, String>>,
) -> Result<Vec<u8>, TensorFileErrorKind> {
    let mut end = 0;
    let describe = |tensor: &TensorSource<'_>| {
        let start = end;
        end += tensor.bytes.len();
        let shape = tensor.shape.clone();
        (tensor.name.clone(), TensorInfo { dtype: tensor.dtype, shape, data_offsets: (start, end) })
    };
    let infos = tensors.iter().map(describe).collect();
    let metadata = Metadata::new(metadata, infos).map_err(TensorFileErrorKind::Layout)?;
    let mut header = serde_json::to_vec(&metadata).map_err(TensorFileErrorKind::Header)?;
    header.resize(header.len().next_multiple_of(LENGTH_BYTES), b' ');
    if header.len() > MAX_HEADER_BYTES {
        return Err(TensorFileErrorKind::Layout(SafeTensorError::HeaderTooLarge));
    }
    Ok(header)
}

fn stream<'a>(path: &Path, parts: impl Iterator<Item = &'a [u8]>) -> io::Result<Written> {
    let mut file = BufWriter::with_capacity(CHUNK_BYTES, File::create_new(path)?);
    let mut hash = Xxh3::new();
    let mut bytes = 0;
    // Chunk by chunk, so that a chunk is hashed while it is still in the cache.
    for chunk in parts.flat_map(|part| part.chunks(CHUNK_BYTES)) {
        hash.update(chunk);
        file.write_all(chunk)?;
        bytes += chunk.len() as u64;
    }
    file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    Ok(Written { bytes, checksum: hash.digest() })
}

/// A tensor inside a mapped file.
#[derive(Clone, Copy)]
pub(crate) struct MappedTensor<'a> {
    pub(crate) dtype: Dtype,
    pub(crate) shape: &'a [usize],
    pub(crate) bytes: &'a [u8],
}

/// A memory-mapped safetensors file whose header has been checked against its length.
#[derive(Debug)]
pub(crate) struct TensorFile {
    path: PathBuf,
    map: Mmap,
    data_start: usize,
    tensors: BTreeMap<String, TensorInfo>,
}

impl TensorFile {
    /// Maps `path` and parses its header.
    pub(crate) fn open(path: &Path) -> Result<Self, TensorFileError> {
        let map = map(path).map_err(|kind| kind.at(path))?;
        let (data_start, metadata) = parse_header(&map).map_err(|kind| kind.at(path))?;
        let tensors =
            metadata.tensors().into_iter().map(|(name, info)| (name, info.clone())).collect();
        Ok(Self { path: path.to_path_buf(), map, data_start, tensors })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Names of all tensors, sorted.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub(crate) fn tensor(&self, name: &str) -> Option<MappedTensor<'_>> {
        let info = self.tensors.get(name)?;
        let (start, end) = info.data_offsets;
        let bytes = &self.map[self.data_start + start..self.data_start + end];
        Some(MappedTensor { dtype: info.dtype, shape: &info.shape, bytes })
    }

    /// Reads the whole file and returns its checksum.
    pub(crate) fn checksum(&self) -> u64 {
        let mut hash = Xxh3::new();
        self.map.chunks(CHUNK_BYTES).for_each(|chunk| hash.update(chunk));
        hash.digest()
    }
}

fn map(path: &Path) -> Result<Mmap, TensorFileErrorKind> {
    let (file, _) = open_regular(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => TensorFileErrorKind::Missing,
        _ => TensorFileErrorKind::Read(error),
    })?;
    // SAFETY: the map is read-only, and tensor files are written once under another folder name and
    // never changed after; a file cut short by someone else while it is mapped ends the process
    // with SIGBUS, it corrupts nothing.
    unsafe { Mmap::map(&file) }.map_err(TensorFileErrorKind::Read)
}

fn parse_header(file: &[u8]) -> Result<(usize, Metadata), TensorFileErrorKind> {
    let file_bytes = file.len() as u64;
    let Some((length, rest)) = file.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(TensorFileErrorKind::HeaderLength { header_bytes: 0, file_bytes });
    };
    let header_bytes = u64::from_le_bytes(*length);
    let header = usize::try_from(header_bytes).ok().filter(|&length| length <= MAX_HEADER_BYTES);
    let Some(header) = header.and_then(|length| rest.get(..length)) else {
        return Err(TensorFileErrorKind::HeaderLength { header_bytes, file_bytes });
    };
    // Parsing also checks that the tensors follow each other without gaps and that sizes match
    // shapes.
    let metadata: Metadata = serde_json::from_slice(header).map_err(TensorFileErrorKind::Header)?;
    let expected = (metadata.data_len() as u64).saturating_add(8 + header_bytes);
    if expected != file_bytes {
        return Err(TensorFileErrorKind::Length { expected, found: file_bytes });
    }
    Ok((LENGTH_BYTES + header.len(), metadata))
}
