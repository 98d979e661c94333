//! The directory that holds a run's checkpoints: which are there, which is the newest usable, where
//! the next one goes.

use std::fs;
use std::io::{self, Write};
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

    /// Creates the directory if needed and proves, by writing and removing a file, that it can hold
    /// checkpoints.
    pub fn check_writable(&self) -> Result<(), CheckpointError> {
        let probe = self.root.join(format!(".probe-{}", std::process::id()));
        let write = || {
            fs::create_dir_all(&self.root)?;
            fs::File::create(&probe)?.write_all(b"probe")?;
            match fs::remove_file(&probe) {
                // Another rank of this process asked the same question and tidied up first.
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                removed => removed,
            }
        };
        write().map_err(|source| CheckpointError::NotWritable { path: self.root.clone(), source })
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
        let mut skipped = Vec::new();
        for (step, path) in self.folders()?.into_iter().rev() {
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
                Err(reason) if reason.is_damage() => skipped.push(Skipped { path, reason }),
                Err(error) => return Err(error),
            }
        }
        Ok(Scan { newest: None, skipped })
    }

    /// Opens the checkpoint of `step`.
    pub fn open(&self, step: u64) -> Result<Checkpoint, CheckpointError> {
        let path = self.folder(step);
        if !path.is_dir() {
            let (root, available) = (self.root.clone(), self.list()?);
            return Err(CheckpointError::NoSuchStep { step, root, available });
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
    pub fn set_aside_after(&self, step: u64) -> Result<Vec<PathBuf>, CheckpointError> {
        let mut moved = Vec::new();
        for (_, path) in self.folders()?.into_iter().filter(|folder| folder.0 > step) {
            let aside = |nth: u32| path.with_added_extension(format!("superseded-{nth}"));
            let mut nth = 1;
            while aside(nth).exists() {
                nth += 1;
            }
            let target = aside(nth);
            fs::rename(&path, &target).map_err(CheckpointError::io("rename", &path))?;
            moved.push(target);
        }
        sync_folder(&self.root)?;
        Ok(moved)
    }

    pub(crate) fn folder(&self, step: u64) -> PathBuf {
        self.root.join(folder_name(step))
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

fn folder_name(step: u64) -> String {
    format!("step-{step:08}")
}
