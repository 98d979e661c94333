//! A file that grows row by row and never keeps half of one.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::PathBuf;

use super::SinkError;

/// An open metrics file that knows where its last complete row ends.
#[derive(Debug)]
pub(super) struct Appender {
    path: PathBuf,
    file: File,
    length: u64,
    damaged: bool,
}

impl Appender {
    /// Takes a file over and cuts it to its first `length` bytes.
    pub(super) fn new(path: PathBuf, file: File, length: u64) -> Result<Self, SinkError> {
        let mut appender = Self { path, file, length, damaged: true };
        match appender.repair() {
            Ok(()) => Ok(appender),
            Err(source) => Err(SinkError::Open { path: appender.path, source }),
        }
    }

    /// Writes one row, after cutting what a failed write may have left of an earlier one.
    pub(super) fn append(&mut self, row: &[u8]) -> Result<(), SinkError> {
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
        fs::write(&path, "").expect("the folder is writable");
        let mut appender = Appender::new(path.clone(), writable(), 0).expect("it is a file");
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
