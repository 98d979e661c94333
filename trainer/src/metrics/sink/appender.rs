//! A file that grows row by row and never keeps half of one.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::SinkError;
use crate::run_folder::is_at;

/// An open metrics file that knows where its last complete row ends.
#[derive(Debug)]
pub(super) struct Appender {
    path: PathBuf,
    file: File,
    length: u64,
    damaged: bool,
}

impl Appender {
    /// Opens a file, which is made if it is not there, to write behind what it holds.
    pub(super) fn open(path: PathBuf) -> Result<Self, SinkError> {
        let open = |path: &Path| {
            let mut options = File::options();
            let file = options.write(true).create(true).truncate(false).open(path)?;
            let length = file.metadata()?.len();
            Ok((file, length))
        };
        match open(&path) {
            Ok((file, length)) => Ok(Self { path, file, length, damaged: true }),
            Err(source) => Err(SinkError::Open { path, source }),
        }
    }

    /// Writes one row, after cutting what a failed write may have left of an earlier one.
    ///
    /// # Errors
    ///
    /// [`SinkError::Removed`] if the file was removed or replaced: what is written to it is lost.
    pub(super) fn append(&mut self, row: &[u8]) -> Result<(), SinkError> {
        if !is_at(&self.file, &self.path) {
            return Err(SinkError::Removed { path: self.path.clone() });
        }
        let result = self.repair().and_then(|()| self.file.write_all(row));
        self.damaged = result.is_err();
        result.map_err(|source| SinkError::Write { path: self.path.clone(), source })?;
        self.length += row.len() as u64;
        Ok(())
    }

    fn repair(&mut self) -> io::Result<()> {
        if self.damaged {
            self.file.set_len(self.length)?;
            self.file.seek(SeekFrom::Start(self.length))?;
            self.damaged = false;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn row_after_a_failed_one_starts_a_line() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("rows");
        let writable = || File::options().write(true).open(&path).expect("the file is there");
        let mut appender = Appender::open(path.clone()).expect("it can be made");
        appender.append(b"one\n").expect("it is writable");

        // A handle without the right to write stands in for a full disk that took half a row.
        appender.file = File::open(&path).expect("the file is there");
        let error = appender.append(b"two\n").expect_err("the handle cannot write");
        assert!(matches!(error, SinkError::Write { .. }), "{error}");
        fs::write(&path, "one\ntw").expect("the folder is writable");
        appender.file = writable();
        appender.append(b"three\n").expect("it is writable again");
        assert_eq!(fs::read_to_string(&path).expect("it is text"), "one\nthree\n");
    }
}
