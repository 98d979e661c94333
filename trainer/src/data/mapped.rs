//! Read-only memory maps of files.
#![expect(unsafe_code, reason = "mapping a file is unsafe, because another process may change it")]

use std::path::Path;

use memmap2::Mmap;

use super::{DataError, files};

/// Bytes of a file, mapped, or owned.
pub(crate) enum FileBytes {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

impl FileBytes {
    /// Maps a file. The threads of a process share the map, and processes share its pages.
    pub(crate) fn map(path: &Path) -> Result<Self, DataError> {
        let (file, size) = files::open_sized(path)?;
        if size == 0 {
            return Ok(Self::Owned(Vec::new()));
        }
        // SAFETY: the map is read-only and only ever read as plain integers, for which every bit
        // pattern is valid. A token file must not be truncated in place while a run reads it; this
        // crate itself replaces files by rename only, which leaves the mapped one intact.
        let map = unsafe { Mmap::map(&file) };
        map.map(Self::Mapped).map_err(|source| DataError::Read { path: path.to_path_buf(), source })
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Owned(bytes) => bytes,
        }
    }
}
