//! Which lines of an earlier `metrics.jsonl` a start continues, and where the others go.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::run_folder::{keep, next_numbered};

/// Longest line that can be a row, in bytes.
const LONGEST_ROW: u64 = 1 << 20;

/// The part of a row that says where it belongs.
#[derive(Deserialize)]
struct Position {
    step: u64,
}

/// Where a line goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// It stays.
    Here,
    /// It is a row of a step that is done again.
    Superseded,
    /// It is no row.
    Damaged,
}

/// What was moved out of the way of a start.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SetAside {
    /// Rows of steps that are done again, and the file that has them now.
    pub(super) superseded: Option<(u64, PathBuf)>,
    /// Lines that are no rows, and the file that has them now.
    pub(super) damaged: Option<(u64, PathBuf)>,
}

/// Keeps the rows of a file under a numbered name, so that a start from step 0 begins a new one.
/// Returns that name, or nothing if there was no row.
pub(super) fn keep_all(path: &Path) -> io::Result<Option<PathBuf>> {
    if length_of(path)? == 0 { Ok(None) } else { keep(path).map(Some) }
}

/// Leaves the rows up to `start_step` in a file and moves its other lines to numbered files beside
/// it: `metrics.superseded.1.jsonl` and `metrics.damaged.1.jsonl`.
///
/// Other files are complete before the rows leave this one, which is replaced by a rename: a start
/// that is killed here loses nothing.
pub(super) fn keep_up_to(path: &Path, start_step: u64) -> io::Result<SetAside> {
    if length_of(path)? == 0 || is_continued(path, start_step)? {
        return Ok(SetAside::default());
    }
    let mut kept = Part::new(path.with_added_extension("partial"));
    let mut superseded = Part::new(next_numbered(&path.with_extension("superseded.jsonl"))?);
    let mut damaged = Part::new(next_numbered(&path.with_extension("damaged.jsonl"))?);
    let (mut lines, mut line) = (Lines::open(path)?, Vec::new());
    while let Some(place) = lines.next(&mut line, start_step)? {
        let part = match place {
            Place::Here => &mut kept,
            Place::Superseded => &mut superseded,
            Place::Damaged => &mut damaged,
        };
        if place == Place::Here && line.last() != Some(&b'\n') {
            // Or the next row would be merged with this one.
            line.push(b'\n');
        }
        part.write(&line)?;
    }
    let [superseded, damaged] = [superseded.finish()?, damaged.finish()?];
    // Without a row to keep there is no such file.
    match kept.finish()? {
        Some((_, partial)) => fs::rename(partial, path)?,
        None => fs::remove_file(path)?,
    }
    Ok(SetAside { superseded, damaged })
}

/// Tells whether a file holds nothing but whole rows up to a step, so that nothing has to be moved.
fn is_continued(path: &Path, start_step: u64) -> io::Result<bool> {
    let (mut lines, mut line) = (Lines::open(path)?, Vec::new());
    while let Some(place) = lines.next(&mut line, start_step)? {
        if place != Place::Here || line.last() != Some(&b'\n') {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Returns the bytes of a file, 0 if there is none.
fn length_of(path: &Path) -> io::Result<u64> {
    match fs::metadata(path) {
        Ok(found) if found.is_file() => Ok(found.len()),
        // Opening a pipe would wait for whoever writes into it.
        Ok(_) => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

/// The lines of a file, of which an endless one comes in pieces.
struct Lines {
    reader: BufReader<File>,
    /// Whether the last piece ended within its line.
    is_inside: bool,
}

impl Lines {
    fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { reader: BufReader::new(File::open(path)?), is_inside: false })
    }

    /// Reads the next line, with its line break, and tells where it goes.
    fn next(&mut self, line: &mut Vec<u8>, start_step: u64) -> io::Result<Option<Place>> {
        line.clear();
        if (&mut self.reader).take(LONGEST_ROW).read_until(b'\n', line)? == 0 {
            return Ok(None);
        }
        let is_piece = line.last() != Some(&b'\n') && line.len() as u64 == LONGEST_ROW;
        let was_inside = std::mem::replace(&mut self.is_inside, is_piece);
        if is_piece || was_inside {
            return Ok(Some(Place::Damaged));
        }
        Ok(Some(match serde_json::from_slice::<Position>(line) {
            Ok(position) if position.step <= start_step => Place::Here,
            Ok(_) => Place::Superseded,
            Err(_) => Place::Damaged,
        }))
    }
}

/// A file that is made with its first line.
struct Part {
    path: PathBuf,
    file: Option<BufWriter<File>>,
    lines: u64,
}

impl Part {
    fn new(path: PathBuf) -> Self {
        Self { path, file: None, lines: 0 }
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(BufWriter::new(File::create(&self.path)?)),
        };
        self.lines += 1;
        file.write_all(line)
    }

    /// Brings it to the disk; returns the number of lines and the file, or nothing without a line.
    fn finish(self) -> io::Result<Option<(u64, PathBuf)>> {
        let Some(file) = self.file else { return Ok(None) };
        file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        Ok(Some((self.lines, self.path)))
    }
}
