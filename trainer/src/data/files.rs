//! Lists of input files by glob pattern.

use std::{
    collections::BTreeSet,
    fs::File,
    path::{Path, PathBuf},
};

use super::DataError;

/// Returns the files that match any of the patterns, each once, sorted by path; `key` is where they
/// were given.
///
/// Folders are left out. A pattern without a matching file is an error, so that a typo never
/// shrinks the data.
pub(crate) fn expand_globs(
    key: &'static str,
    patterns: &[String],
) -> Result<Vec<PathBuf>, DataError> {
    let mut files = BTreeSet::new();
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
                files.insert(path);
            }
        }
        if !is_matched {
            return Err(DataError::NoFiles { pattern: pattern.clone() });
        }
    }
    Ok(files.into_iter().collect())
}

/// Opens a file for reading and returns it with its size in bytes.
pub(crate) fn open_sized(path: &Path) -> Result<(File, u64), DataError> {
    let read = |source| DataError::Read { path: path.to_path_buf(), source };
    let file = File::open(path).map_err(read)?;
    let size = file.metadata().map_err(read)?.len();
    Ok((file, size))
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
