//! The directory that holds a run's checkpoints: which are there, which is the newest usable, where
//! the next one goes.

use std::fs;
use std::io::{self, Write};
use std::ops::RangeBounds;
use std::path::{Path, PathBuf};

use super::error::CheckpointError;
use super::load::Checkpoint;
use super::manifest;
use super::save::{Save, sync_folder};

/// How closely [`CheckpointStore::scan`] looks at a checkpoint before it calls it usable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// The manifest is sound and its files have their full length. Reads no tensors.
    Files,
    /// Also every file's checksum. Reads everything.
    Checksums,
}

/// What [`CheckpointStore::scan`] found.
#[derive(Debug)]
pub struct Scan {
    /// The newest usable checkpoint.
    pub newest: Option<Checkpoint>,
    /// Newer folders that were passed over, newest first.
    pub skipped: Vec<Skipped>,
}

/// A folder that is no usable checkpoint.
#[derive(Debug)]
pub struct Skipped {
    /// The step in its name.
    pub step: u64,
    /// The folder.
    pub path: PathBuf,
    /// Why it cannot be used.
    pub reason: CheckpointError,
}

/// The checkpoints of one run.
#[derive(Debug, Clone)]
pub struct CheckpointStore {
    root: PathBuf,
}

impl CheckpointStore {
    /// Names the directory; nothing is read or created yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Returns the directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Creates the directory if needed, removes what dead processes left in it, which may be what
    /// fills the disk, and proves, by writing and removing a file, that it can hold checkpoints.
    ///
    /// Only the owner of the run calls it: the leftovers of one process are another's work.
    pub fn prepare(&self) -> Result<(), CheckpointError> {
        let refused = |source| CheckpointError::NotWritable { path: self.root.clone(), source };
        fs::create_dir_all(&self.root).map_err(refused)?;
        self.remove_leftovers()?;
        let probe = self.root.join(format!(".probe-{}", std::process::id()));
        let written = fs::File::create(&probe).and_then(|mut file| file.write_all(b"probe"));
        let removed = fs::remove_file(&probe);
        written.and(removed).map_err(refused)
    }

    /// Returns the steps that have a folder with a manifest, oldest first.
    pub fn list(&self) -> Result<Vec<u64>, CheckpointError> {
        let steps = self.folders()?.into_iter();
        Ok(steps.filter(|(_, path)| path.join(manifest::FILE_NAME).exists()).map(|f| f.0).collect())
    }

    /// Returns whether there is a complete checkpoint of `step`.
    pub fn contains(&self, step: u64) -> bool {
        self.folder(step).join(manifest::FILE_NAME).exists()
    }

    /// Finds the newest usable checkpoint, looking at newer folders first.
    ///
    /// # Errors
    ///
    /// A checkpoint that is intact but cannot be read, one of a newer release for instance, is an
    /// error: training on from an older one would be a silent fallback.
    pub fn scan(&self, check: Check) -> Result<Scan, CheckpointError> {
        self.scan_steps(.., check)
    }

    /// Does what [`CheckpointStore::scan`] does for some of the steps.
    pub fn scan_steps(
        &self,
        steps: impl RangeBounds<u64>,
        check: Check,
    ) -> Result<Scan, CheckpointError> {
        let mut skipped = Vec::new();
        let wanted = self.folders()?.into_iter().filter(|folder| steps.contains(&folder.0));
        for (step, path) in wanted.rev() {
            let usable = self.open(step).and_then(|checkpoint| {
                if check == Check::Checksums {
                    checkpoint.verify()?;
                }
                Ok(checkpoint)
            });
            match usable {
                Ok(checkpoint) => {
                    return Ok(Scan { newest: Some(checkpoint), skipped });
                }
                Err(reason) if reason.is_damage() => skipped.push(Skipped { step, path, reason }),
                Err(error) => return Err(error),
            }
        }
        Ok(Scan { newest: None, skipped })
    }

    /// Opens the checkpoint of `step`.
    pub fn open(&self, step: u64) -> Result<Checkpoint, CheckpointError> {
        let path = self.folder(step);
        if path.symlink_metadata().is_err() {
            let (root, available) = (self.root.clone(), self.list()?);
            return Err(CheckpointError::NoSuchStep { step, root, available });
        }
        if !path.is_dir() {
            return Err(CheckpointError::NotAFile { path });
        }
        let checkpoint = Checkpoint::open(&path)?;
        if checkpoint.step() != step {
            let (found, expected) = (checkpoint.step(), step);
            return Err(CheckpointError::Step { path, found, expected });
        }
        Ok(checkpoint)
    }

    /// Starts the checkpoint of `step`. One rank calls this; the others [`CheckpointStore::join`]
    /// after a barrier.
    ///
    /// What earlier saves left unfinished is removed.
    pub fn begin(&self, step: u64) -> Result<Save, CheckpointError> {
        let save = self.join(step);
        if save.complete.exists() {
            return Err(CheckpointError::Exists { path: save.complete });
        }
        fs::create_dir_all(&self.root).map_err(CheckpointError::io("create", &self.root))?;
        self.remove_leftovers()?;
        fs::create_dir(&save.partial).map_err(CheckpointError::io("create", &save.partial))?;
        Ok(save)
    }

    /// Takes part in a checkpoint that another rank has begun.
    pub fn join(&self, step: u64) -> Save {
        Save {
            root: self.root.clone(),
            partial: self.root.join(format!(".{}.partial", folder_name(step))),
            complete: self.folder(step),
            step,
        }
    }

    /// Renames the folders of later steps, so that a run continuing from `step` can save them anew,
    /// and returns the new names. Nothing is deleted.
    ///
    /// Older ones go first: a start that dies halfway leaves the newest, from which the old branch
    /// goes on as if nothing had been asked.
    pub fn set_aside_after(&self, step: u64) -> Result<Vec<PathBuf>, CheckpointError> {
        let later = self.folders()?.into_iter().filter(|folder| folder.0 > step);
        let moved = later.map(|(_, path)| rename(&path, "superseded"));
        let moved = moved.collect::<Result<_, _>>()?;
        sync_folder(&self.root)?;
        Ok(moved)
    }

    /// Renames the damaged folder of `step`, so that it neither counts nor is in the way, and returns
    /// the new name. Nothing is deleted.
    pub fn set_aside_damaged(&self, step: u64) -> Result<PathBuf, CheckpointError> {
        let moved = rename(&self.folder(step), "damaged")?;
        sync_folder(&self.root)?;
        Ok(moved)
    }

    pub(crate) fn folder(&self, step: u64) -> PathBuf {
        self.root.join(folder_name(step))
    }

    /// Steps that have anything under the name of a checkpoint, oldest first.
    pub(crate) fn steps(&self) -> Result<Vec<u64>, CheckpointError> {
        Ok(self.folders()?.into_iter().map(|folder| folder.0).collect())
    }

    /// Folders named like complete checkpoints, oldest first; a missing directory has none.
    fn folders(&self) -> Result<Vec<(u64, PathBuf)>, CheckpointError> {
        let mut folders = Vec::new();
        for (name, path) in self.entries()? {
            let step = name.strip_prefix("step-").and_then(|digits| digits.parse().ok());
            if let Some(step) = step
                && folder_name(step) == name
            {
                folders.push((step, path));
            }
        }
        folders.sort();
        Ok(folders)
    }

    /// All names in the directory.
    pub(crate) fn entries(&self) -> Result<Vec<(String, PathBuf)>, CheckpointError> {
        let entries = match fs::read_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(CheckpointError::io("list", &self.root))?,
        };
        let named = |entry: io::Result<fs::DirEntry>| {
            entry.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
        };
        entries
            .map(named)
            .collect::<io::Result<_>>()
            .map_err(CheckpointError::io("list", &self.root))
    }
}

/// Gives a folder the first free name that says why it does not count.
fn rename(path: &Path, reason: &str) -> Result<PathBuf, CheckpointError> {
    let aside = |nth: u32| path.with_added_extension(format!("{reason}-{nth}"));
    let mut nth = 1;
    while aside(nth).symlink_metadata().is_ok() {
        nth += 1;
    }
    let target = aside(nth);
    fs::rename(path, &target).map_err(CheckpointError::io("rename", path))?;
    Ok(target)
}

fn folder_name(step: u64) -> String {
    format!("step-{step:08}")
}
