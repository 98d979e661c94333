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
/// A file that is not regular or cannot be read; one in UTF-16, or compressed under another name.
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
    if start.starts_with(b"\x1f\x8b") && !is_compressed(path) {
        return Err(DataError::UnnamedGzip { path: path.to_path_buf() });
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

/// How many lines are read at once, and how long one may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LineLimits {
    /// Bytes of a piece of whole lines, about.
    pub(crate) chunk: u64,
    /// Bytes of the longest line.
    pub(crate) line: u64,
}

/// Reads a piece of whole lines, an empty one at the end of the file. Its first line is number
/// `first_line` of the file.
///
/// # Errors
/// A file that cannot be read; a line that is too long.
pub(crate) fn read_lines(
    input: &mut Input,
    limits: LineLimits,
    path: &Path,
    first_line: u64,
) -> Result<Vec<u8>, DataError> {
    let mut text = Vec::with_capacity(limits.chunk as usize);
    let failed = |source| failed(path, source);
    input.by_ref().take(limits.chunk).read_to_end(&mut text).map_err(failed)?;
    let begun = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    if begun < text.len() {
        // One byte more than the rest of the longest line may have, its end included.
        let most = (limits.line + 2).saturating_sub((text.len() - begun) as u64);
        input.by_ref().take(most).read_until(b'\n', &mut text).map_err(failed)?;
        let line = text[begun..].strip_suffix(b"\n").unwrap_or(&text[begun..]);
        if line.len() as u64 > limits.line {
            let (path, limit) = (path.to_path_buf(), limits.line);
            return Err(DataError::LineTooLong {
                path,
                line: first_line + count_lines(&text[..begun]),
                limit,
            });
        }
    }
    Ok(text)
}

/// Counts the line breaks of a text.
pub(crate) fn count_lines(text: &[u8]) -> u64 {
    text.split(|byte| *byte == b'\n').count() as u64 - 1
}

fn is_compressed(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "gz")
}

fn failed(path: &Path, source: io::Error) -> DataError {
    DataError::Read { path: path.to_path_buf(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads all lines of a text in pieces.
    fn lines(text: &str, limits: LineLimits) -> Result<Vec<String>, DataError> {
        let mut input: Input = BufReader::new(Box::new(io::Cursor::new(text.to_owned())));
        let (mut pieces, mut line) = (Vec::new(), 1);
        loop {
            let piece = read_lines(&mut input, limits, Path::new("a.jsonl"), line)?;
            if piece.is_empty() {
                return Ok(pieces);
            }
            line += count_lines(&piece);
            pieces.push(String::from_utf8(piece).expect("pieces end at line breaks"));
        }
    }

    #[test]
    fn pieces_are_whole_lines_up_to_the_longest() {
        let text = "one\nfour\n\nsevenal";
        for (chunk, line) in (1..20).flat_map(|chunk| (7..9).map(move |line| (chunk, line))) {
            let pieces = lines(text, LineLimits { chunk, line }).expect("no line is longer");
            assert_eq!(pieces.concat(), text, "{chunk}");
            let is_whole = |piece: &String| piece.ends_with('\n') || piece.ends_with("sevenal");
            assert!(pieces.iter().all(is_whole), "{pieces:?}");
        }
        for (text, number) in [("one\n123456789\n", 2), ("123456789", 1), ("a\n\nb\n12345678", 4)] {
            let error = lines(text, LineLimits { chunk: 4, line: 7 }).expect_err("it is too long");
            assert_eq!(
                error.to_string(),
                format!("`a.jsonl` line {number} is longer than 7 bytes")
            );
        }
    }
}
