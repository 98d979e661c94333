//! Removing what is no longer wanted: old checkpoints and the leftovers of saves that died.

use std::fs;
use std::io;
use std::path::Path;

use super::error::CheckpointError;
use super::save::sync_folder;
use super::store::CheckpointStore;

/// Suffixes of folders that are no checkpoint: still being written, or already being removed.
const LEFTOVERS: [&str; 2] = [".partial", ".removing"];
/// How the names of files begin that prove that the directory can be written.
const PROBE: &str = ".probe-";

impl CheckpointStore {
    /// Removes the oldest whole checkpoints until `keep_latest` are left, 0 keeping all, and returns
    /// their steps.
    ///
    /// The checkpoint of `just_saved` stays in any case. Whole means a sound manifest and files of
    /// their full length; what is not whole, and what was set aside, neither counts nor is removed. A
    /// folder is renamed before its files go, so that an interrupted removal leaves no half
    /// checkpoint under a good name.
    pub fn retain(&self, keep_latest: usize, just_saved: u64) -> Result<Vec<u64>, CheckpointError> {
        let steps = self.steps()?;
        if keep_latest == 0 || steps.len() <= keep_latest {
            return Ok(Vec::new());
        }
        let is_whole = |step: &u64| self.open(*step).is_ok();
        let newest_first = steps.into_iter().rev().filter(is_whole);
        let old = newest_first.skip(keep_latest).filter(|&step| step != just_saved);
        let mut old: Vec<u64> = old.collect();
        old.reverse();
        for &step in &old {
            let folder = self.folder(step);
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let doomed = self.root().join(format!(".{name}.removing"));
            if doomed.exists() {
                remove(&doomed)?;
            }
            fs::rename(&folder, &doomed).map_err(CheckpointError::io("rename", &folder))?;
            remove(&doomed)?;
        }
        if !old.is_empty() {
            sync_folder(self.root())?;
        }
        Ok(old)
    }

    /// Removes what saves, removals and probes left behind when their process died.
    pub(crate) fn remove_leftovers(&self) -> Result<(), CheckpointError> {
        for (name, path) in self.entries()? {
            let is_unfinished =
                name.starts_with(".step-") && LEFTOVERS.iter().any(|suffix| name.ends_with(suffix));
            if is_unfinished || name.starts_with(PROBE) {
                remove(&path)?;
            }
        }
        Ok(())
    }
}

/// Removes a folder with all it holds, or whatever else has the name.
fn remove(path: &Path) -> Result<(), CheckpointError> {
    let removed = fs::remove_dir_all(path).or_else(|error| match error.kind() {
        io::ErrorKind::NotADirectory => fs::remove_file(path),
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    });
    removed.map_err(CheckpointError::io("remove", path))
}
