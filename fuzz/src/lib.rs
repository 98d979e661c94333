//! What the fuzz targets share: a folder for the files that they change.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tempfile::TempDir;

/// Returns the folder of this process.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    FOLDER.get_or_init(|| tempfile::tempdir().expect("a folder for temporary files")).path()
}

/// Writes a file of the folder and returns its path.
pub fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder().join(name);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).expect("the folder is writable");
    }
    fs::write(&path, bytes).expect("the folder is writable");
    path
}

/// Lets panics that the trainer catches by itself pass: `libfuzzer-sys` ends the process at each.
/// One that nobody catches still counts as a finding.
pub fn allow_caught_panics() {
    std::panic::set_hook(Box::new(|_| {}));
}

/// Divides an input into two files.
pub fn halves(data: &[u8]) -> (&[u8], &[u8]) {
    let Some((length, rest)) = data.split_first_chunk::<2>() else { return (data, &[]) };
    rest.split_at(usize::from(u16::from_le_bytes(*length)).min(rest.len()))
}
