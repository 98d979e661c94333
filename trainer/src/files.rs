//! Files that a user names: only regular ones are opened, and no more of them is read than fits.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Longest configuration or description that is read whole, in bytes.
pub(crate) const MOST_TEXT_BYTES: u64 = 64 << 20;

/// Opens a regular file for reading and returns it with its size in bytes.
///
/// # Errors
///
/// What the system says; a folder, a pipe, a socket or a device, without waiting for whoever may
/// write into it.
pub(crate) fn open_regular(path: &Path) -> io::Result<(File, u64)> {
    // Looked at before it is opened: opening a pipe waits for a writer.
    let kind = fs::metadata(path)?.file_type();
    if !kind.is_file() {
        return Err(not_regular(kind));
    }
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

/// Reads a whole regular file of at most `limit` bytes.
///
/// # Errors
///
/// See [`open_regular`]; a longer file.
pub(crate) fn read_regular(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let (file, size) = open_regular(path)?;
    if size > limit {
        return Err(too_long(limit));
    }
    read_to_end(file, limit)
}

/// Reads the rest of at most `limit` bytes.
///
/// # Errors
///
/// What the system says; more bytes than the limit, of which no more is held in memory.
pub(crate) fn read_to_end(reader: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit { Err(too_long(limit)) } else { Ok(bytes) }
}

/// What makes a file the same under every spelling of its path, through links too.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum FileIdentity {
    /// Device and number on it.
    #[cfg(unix)]
    Node(u64, u64),
    /// Path without links and detours.
    #[cfg_attr(unix, expect(dead_code, reason = "for systems without file numbers"))]
    Path(PathBuf),
}

impl FileIdentity {
    /// Finds out which file a path leads to.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            let found = fs::metadata(path)?;
            Ok(Self::Node(found.dev(), found.ino()))
        }
        #[cfg(not(unix))]
        path.canonicalize().map(Self::Path)
    }
}

fn not_regular(kind: fs::FileType) -> io::Error {
    let what = if kind.is_dir() { "a folder" } else { special(kind) };
    let text = format!("it is {what}, not a regular file");
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

#[cfg(unix)]
fn special(kind: fs::FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    if kind.is_fifo() {
        "a named pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

#[cfg(not(unix))]
fn special(_: fs::FileType) -> &'static str {
    "something special"
}

fn too_long(limit: u64) -> io::Error {
    let text = format!("it is longer than the {limit} bytes that are read of such a file");
    io::Error::new(io::ErrorKind::FileTooLarge, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_of_bounded_size_are_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("text");
        fs::write(&path, "four").expect("the folder is writable");
        assert_eq!(read_regular(&path, 4).expect("it fits"), b"four");
        let said = |path: &Path, limit| read_regular(path, limit).expect_err("refused").to_string();
        assert!(said(&path, 3).contains("longer than the 3 bytes"));
        assert!(said(folder.path(), 3).contains("a folder"));
        if cfg!(unix) {
            assert!(said(Path::new("/dev/zero"), 3).contains("a device"));
            let pipe = folder.path().join("pipe");
            let made = std::process::Command::new("mkfifo").arg(&pipe).status();
            assert!(made.expect("mkfifo is there").success());
            assert!(said(&pipe, 3).contains("a named pipe"));
        }
    }

    #[test]
    fn a_file_has_one_identity_under_all_its_names() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("text");
        fs::write(&path, "").expect("the folder is writable");
        fs::hard_link(&path, folder.path().join("hard")).expect("the folder is writable");
        let detour = folder.path().join(".").join("hard");
        let identity = |path: &Path| FileIdentity::of(path).expect("it is there");
        assert_eq!(identity(&path), identity(&detour));
        assert_ne!(identity(&path), identity(folder.path()));
    }
}
