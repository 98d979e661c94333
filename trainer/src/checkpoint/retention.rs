//! Removing what is no longer wanted: old checkpoints and the leftovers of saves that died.

use std::fs;
use std::path::Path;

use super::error::CheckpointError;
use super::save::sync_folder;
use super::store::CheckpointStore;

/// Suffixes of folders that are no checkpoint: still being written, or already being removed.
const LEFTOVERS: [&str; 2] = [".partial", ".removing"];

impl CheckpointStore {
    /// Removes the oldest complete checkpoints until `keep_latest` are left, 0 keeping all, and
    /// returns their steps.
    ///
    /// The checkpoint of `just_saved` stays in any case. A folder is renamed before its files go,
    /// so that an interrupted removal leaves no half checkpoint under a good name.
    pub fn retain(&self, keep_latest: usize, just_saved: u64) -> Result<Vec<u64>, CheckpointError> {
        let steps = self.list()?;
        let surplus = if keep_latest == 0 { 0 } else { steps.len().saturating_sub(keep_latest) };
        let old: Vec<u64> =
            steps.into_iter().take(surplus).filter(|&step| step != just_saved).collect();
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

    /// Removes what saves and removals left behind when their process died.
    pub(crate) fn remove_leftovers(&self) -> Result<(), CheckpointError> {
        for (name, path) in self.entries()? {
            let is_ours = name.starts_with(".step-");
            if is_ours && LEFTOVERS.iter().any(|suffix| name.ends_with(suffix)) {
                remove(&path)?;
            }
        }
        Ok(())
    }
}

fn remove(folder: &Path) -> Result<(), CheckpointError> {
    fs::remove_dir_all(folder).map_err(CheckpointError::io("remove", folder))
}
