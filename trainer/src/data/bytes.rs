//! The bytes of a token store, in memory or in a file that is read where needed.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::DataError;
use crate::files;

/// Bytes in memory or on disk.
///
/// A file is read at a position and never mapped: one that is cut short while a run reads it gives
/// an error, where a map would end the process by a signal. The system's cache serves all ranks.
pub(crate) enum StoreBytes {
    /// In memory.
    Owned(Vec<u8>),
    /// In a file.
    Stored {
        /// The file, open as long as the store.
        file: File,
        /// Its path, for messages.
        path: PathBuf,
        /// Its length when it was opened.
        len: u64,
    },
}

impl StoreBytes {
    /// Opens a regular file.
    pub(crate) fn open(path: &Path) -> Result<Self, DataError> {
        let path = path.to_path_buf();
        match files::open_regular(&path) {
            Ok((file, len)) => Ok(Self::Stored { file, path, len }),
            Err(source) => Err(DataError::Read { path, source }),
        }
    }

    /// Returns the number of bytes.
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Owned(bytes) => bytes.len() as u64,
            Self::Stored { len, .. } => *len,
        }
    }

    /// Returns the file, if the bytes lie in one.
    pub(crate) fn path(&self) -> Option<&Path> {
        match self {
            Self::Owned(_) => None,
            Self::Stored { path, .. } => Some(path),
        }
    }

    /// Fills `out` with the bytes from `start` on.
    ///
    /// # Errors
    ///
    /// The file was cut short since it was opened, or cannot be read.
    pub(crate) fn read(&self, start: u64, out: &mut [u8]) -> Result<(), DataError> {
        match self {
            Self::Owned(bytes) => {
                let start = start as usize;
                out.copy_from_slice(&bytes[start..start + out.len()]);
                Ok(())
            }
            Self::Stored { file, path, len } => read_at(file, start, out).map_err(|source| {
                let path = path.clone();
                match source.kind() {
                    io::ErrorKind::UnexpectedEof => {
                        let found = file.metadata().map_or(0, |found| found.len());
                        DataError::CutShort { path, found, expected: *len }
                    }
                    _ => DataError::Read { path, source },
                }
            }),
        }
    }
}

#[cfg(unix)]
fn read_at(file: &File, start: u64, out: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, start)
}

#[cfg(not(unix))]
fn read_at(mut file: &File, start: u64, out: &mut [u8]) -> io::Result<()> {
    use std::io::{Read, Seek, SeekFrom};
    use std::sync::{Mutex, PoisonError};

    // Ranks share the file and with it its position.
    static POSITION: Mutex<()> = Mutex::new(());
    let _turn = POSITION.lock().unwrap_or_else(PoisonError::into_inner);
    file.seek(SeekFrom::Start(start))?;
    file.read_exact(out)
}
