//! Input files as streams of UTF-8: compressed ones are expanded, byte-order marks are left out.

use std::{
    io::{self, BufRead, BufReader, Read},
    path::Path,
};

use flate2::read::MultiGzDecoder;

use super::{DataError, files};
use crate::files::read_to_end;

/// Longest text file and longest JSON line, in bytes after expansion: both are held in memory.
pub(crate) const MOST_DOCUMENT_BYTES: u64 = 1 << 30;

/// Bytes of an input file.
pub(crate) type Input = BufReader<Box<dyn Read + Send>>;

/// Returns the name of a file without the ending `.gz` of compressed ones.
pub(crate) fn expanded_name(path: &Path) -> &Path {
    if is_compressed(path) { Path::new(path.file_stem().unwrap_or_default()) } else { path }
}

/// Opens a file at the first byte of its text.
///
/// # Errors
/// A file that is not regular or cannot be read; one in UTF-16.
pub(crate) fn open(path: &Path) -> Result<Input, DataError> {
    let (file, _) = files::open_sized(path)?;
    let bytes: Box<dyn Read + Send> =
        if is_compressed(path) { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
    let mut input = BufReader::with_capacity(1 << 20, bytes);
    // At most as many bytes as the longest mark come at once, save at the end.
    let start = input.fill_buf().map_err(|source| failed(path, source))?;
    if start.starts_with(b"\xff\xfe") || start.starts_with(b"\xfe\xff") {
        return Err(DataError::Utf16 { path: path.to_path_buf() });
    }
    if start.starts_with(b"\xef\xbb\xbf") {
        input.consume(3);
    }
    Ok(input)
}

/// Reads a whole file, which is one document.
///
/// # Errors
/// See [`open`]; a file that is too long.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, DataError> {
    read_to_end(open(path)?, MOST_DOCUMENT_BYTES).map_err(|source| failed(path, source))
}

/// Reads about `chunk_bytes` of whole lines, a blank piece at the end of the file.
///
/// # Errors
/// A file that cannot be read; a line that is too long.
pub(crate) fn read_lines(
    input: &mut Input,
    chunk_bytes: u64,
    path: &Path,
) -> Result<Vec<u8>, DataError> {
    let mut text = Vec::with_capacity(chunk_bytes as usize);
    let failed = |source| failed(path, source);
    input.by_ref().take(chunk_bytes).read_to_end(&mut text).map_err(failed)?;
    if text.last().is_some_and(|byte| *byte != b'\n') {
        let rest = input.by_ref().take(MOST_DOCUMENT_BYTES).read_until(b'\n', &mut text);
        if rest.map_err(failed)? as u64 == MOST_DOCUMENT_BYTES && text.last() != Some(&b'\n') {
            return Err(DataError::LineTooLong {
                path: path.to_path_buf(),
                limit: MOST_DOCUMENT_BYTES,
            });
        }
    }
    Ok(text)
}

fn is_compressed(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "gz")
}

fn failed(path: &Path, source: io::Error) -> DataError {
    DataError::Read { path: path.to_path_buf(), source }
}
