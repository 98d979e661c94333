//! Lists of input files by glob pattern.

use std::{
    collections::BTreeSet,
    fs::File,
    path::{Path, PathBuf},
};

use super::DataError;
use crate::files::{self, FileIdentity};

/// Returns the files that match any of the patterns, sorted by path; `key` is where they were given.
///
/// A file that has several names, by links or detours, counts once, under the first of them. Folders
/// that a wide pattern matches are left out; pipes and devices are errors where they are opened. A
/// pattern without a matching file is an error, so that a typo never shrinks the data.
pub(crate) fn expand_globs(
    key: &'static str,
    patterns: &[String],
) -> Result<Vec<PathBuf>, DataError> {
    let mut found = BTreeSet::new();
    for pattern in patterns {
        let mut is_matched = false;
        let paths = glob::glob(pattern).map_err(|source| DataError::InvalidPattern {
            key,
            pattern: pattern.clone(),
            source,
        })?;
        for path in paths {
            let path =
                path.map_err(|source| DataError::ListFiles { pattern: pattern.clone(), source })?;
            if !path.is_dir() {
                is_matched = true;
                found.insert(path);
            }
        }
        if !is_matched {
            let path = Path::new(pattern);
            if path.is_dir() {
                open_sized(path)?;
            }
            return Err(DataError::NoFiles { pattern: pattern.clone() });
        }
    }
    let mut known = BTreeSet::new();
    let mut unique = Vec::with_capacity(found.len());
    for path in found {
        if known.insert(identity(&path)?) {
            unique.push(path);
        }
    }
    Ok(unique)
}

/// Finds out which file a path leads to.
pub(crate) fn identity(path: &Path) -> Result<FileIdentity, DataError> {
    FileIdentity::of(path).map_err(|source| DataError::Read { path: path.to_path_buf(), source })
}

/// Opens a file for reading and returns it with its size in bytes.
pub(crate) fn open_sized(path: &Path) -> Result<(File, u64), DataError> {
    files::open_regular(path).map_err(|source| DataError::Read { path: path.to_path_buf(), source })
}

/// Returns the sizes in bytes of files, in order.
pub(crate) fn sizes(files: &[PathBuf]) -> Result<Vec<u64>, DataError> {
    files
        .iter()
        .map(|path| {
            std::fs::metadata(path)
                .map(|metadata| metadata.len())
                .map_err(|source| DataError::Read { path: path.clone(), source })
        })
        .collect()
}
