//! Reading one checkpoint: any block of any tensor, assembled from whatever blocks were written.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::TensorData;
use rayon::prelude::*;

use super::block::{Block, copy_overlap};
use super::error::CheckpointError;
use super::manifest::{self, BlockEntry, Manifest, TensorEntry};
use super::tensor_file::{MappedTensor, TensorFile, TensorFileErrorKind};
use super::{dtype, host};

/// A complete checkpoint, opened for reading; threads may share it.
///
/// Files are mapped when first needed, and their checksum is compared before a byte of them is
/// handed out: a run that loads on the mesh that saved reads and verifies only what it holds.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    manifest: Manifest,
    files: BTreeMap<String, Mutex<Option<Arc<TensorFile>>>>,
}

impl Checkpoint {
    /// Tells whether `path` is the folder of a complete checkpoint.
    pub fn is_at(path: &Path) -> bool {
        path.join(manifest::FILE_NAME).exists()
    }

    /// Opens the checkpoint folder `path`: its manifest is checked, and that its files are there in
    /// full.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let manifest = Manifest::read(path)?;
        check_files(path, &manifest)?;
        let files = manifest.files.keys().map(|name| (name.clone(), Mutex::default())).collect();
        Ok(Self { path: path.to_path_buf(), manifest, files })
    }

    /// Returns the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the step after which the checkpoint was taken.
    pub fn step(&self) -> u64 {
        self.manifest.step
    }

    /// Returns the manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Returns the keys of all tensors, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.manifest.tensors.keys().map(String::as_str)
    }

    /// Checks that the tensors whose keys start with `section` are exactly `expected`.
    pub fn check_keys<'a>(
        &self,
        section: &str,
        expected: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), CheckpointError> {
        let expected: BTreeSet<&str> = expected.into_iter().collect();
        let found: BTreeSet<&str> = self.keys().filter(|key| key.starts_with(section)).collect();
        if expected == found {
            return Ok(());
        }
        let without = |keys: &BTreeSet<&str>, others: &BTreeSet<&str>| {
            keys.difference(others).map(|&key| key.to_owned()).collect()
        };
        Err(CheckpointError::KeysDiffer {
            path: self.path.clone(),
            missing: without(&expected, &found),
            unexpected: without(&found, &expected),
        })
    }

    /// Returns type, global shape and blocks of a tensor.
    pub fn tensor(&self, key: &str) -> Result<&TensorEntry, CheckpointError> {
        self.manifest.tensors.get(key).ok_or_else(|| CheckpointError::UnknownKey {
            key: key.to_owned(),
            path: self.path.clone(),
        })
    }

    /// Reads a whole tensor.
    pub fn read(&self, key: &str) -> Result<TensorData, CheckpointError> {
        let shape = self.tensor(key)?.shape.clone();
        self.read_block(key, &Block::whole(&shape))
    }

    /// Reads the block that a rank holds of a tensor whose global shape has to be `global_shape`.
    pub fn read_shard(
        &self,
        key: &str,
        global_shape: &[usize],
        block: &Block,
    ) -> Result<TensorData, CheckpointError> {
        let found = &self.tensor(key)?.shape;
        if found != global_shape {
            let (key, found, expected) = (key.to_owned(), found.clone(), global_shape.to_vec());
            return Err(CheckpointError::ShapeDiffers { key, found, expected });
        }
        self.read_block(key, block)
    }

    /// Reads one block of a tensor, whatever mesh wrote it.
    pub fn read_block(&self, key: &str, block: &Block) -> Result<TensorData, CheckpointError> {
        let tensor = self.tensor(key)?;
        if !block.fits(&tensor.shape) {
            let (key, block, shape) = (key.to_owned(), block.clone(), tensor.shape.clone());
            return Err(CheckpointError::OutOfBounds { key, block, shape });
        }
        let unsupported = || CheckpointError::UnsupportedType {
            key: key.to_owned(),
            dtype: tensor.dtype.clone(),
        };
        let dtype =
            dtype::from_name(&tensor.dtype).and_then(dtype::to_host).ok_or_else(unsupported)?;
        let overlaps = |part: &&BlockEntry| part.block.intersect(block).is_some();
        let parts: Vec<&BlockEntry> = tensor.blocks.iter().filter(overlaps).collect();
        let files = parts.iter().map(|part| self.file(&part.file));
        let files = files.collect::<Result<Vec<_>, _>>()?;
        // All parts are checked before memory is taken: they bound how large the block can honestly
        // be.
        let sources = parts.iter().zip(&files);
        let sources = sources.map(|(part, file)| mapped(file, key, tensor, part));
        let sources = sources.collect::<Result<Vec<_>, _>>()?;
        let fill = |bytes: &mut [u8]| {
            for (part, source) in parts.iter().zip(&sources) {
                copy_overlap(dtype.size(), (&part.block, source.bytes), (block, &mut *bytes));
            }
        };
        host::tensor(&block.shape, dtype, fill)
            .map_err(|source| CheckpointError::Host { key: key.to_owned(), source })
    }

    /// Compares every file with its checksum and every block with its file's header.
    pub fn verify(&self) -> Result<(), CheckpointError> {
        self.verify_share(0, 1)
    }

    /// Does the part of [`Checkpoint::verify`] that falls to `rank` when `world_size` ranks share the
    /// files. On the mesh that saved it is the file that the rank will read.
    pub fn verify_share(&self, rank: usize, world_size: usize) -> Result<(), CheckpointError> {
        let names: BTreeSet<&String> = self.files.keys().skip(rank).step_by(world_size).collect();
        names.par_iter().try_for_each(|name| self.file(name).map(drop))?;
        for (key, tensor) in &self.manifest.tensors {
            for part in tensor.blocks.iter().filter(|part| names.contains(&part.file)) {
                mapped(&*self.file(&part.file)?, key, tensor, part)?;
            }
        }
        Ok(())
    }

    /// Returns the file, mapped and verified; a second caller waits instead of verifying again.
    fn file(&self, name: &str) -> Result<Arc<TensorFile>, CheckpointError> {
        let (Some(slot), Some(entry)) = (self.files.get(name), self.manifest.files.get(name))
        else {
            return Err(CheckpointError::ForeignFile { file: name.to_owned() });
        };
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = &*slot {
            return Ok(Arc::clone(file));
        }
        let file = TensorFile::open(&self.path.join(name))?;
        let found = format!("{:016x}", file.checksum());
        if found != entry.xxh3 {
            let (path, expected) = (file.path().to_path_buf(), entry.xxh3.clone());
            return Err(CheckpointError::Checksum { path, found, expected });
        }
        Ok(Arc::clone(slot.insert(Arc::new(file))))
    }
}

/// Finds a block in its file, checking that both mean the same.
fn mapped<'a>(
    file: &'a TensorFile,
    key: &str,
    tensor: &TensorEntry,
    part: &BlockEntry,
) -> Result<MappedTensor<'a>, CheckpointError> {
    let found = file.tensor(&part.name);
    if let Some(found) = found
        && found.shape == part.block.shape
        && dtype::name(found.dtype) == Some(&tensor.dtype)
    {
        return Ok(found);
    }
    Err(CheckpointError::BlockMismatch {
        key: key.to_owned(),
        block: Box::new(part.block.clone()),
        expected: format!("{}{:?}", tensor.dtype, part.block.shape),
        found: found.map_or_else(
            || format!("absent (`{}`)", part.name),
            |found| format!("{}{:?}", found.dtype, found.shape),
        ),
        path: file.path().to_path_buf(),
    })
}

/// Checks that every file the manifest names is there with its full length.
pub(crate) fn check_files(folder: &Path, manifest: &Manifest) -> Result<(), CheckpointError> {
    for (name, entry) in &manifest.files {
        let path = folder.join(name);
        let found = fs::metadata(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => TensorFileErrorKind::Missing.at(&path).into(),
            _ => CheckpointError::io("read", &path)(error),
        })?;
        if !found.is_file() {
            return Err(CheckpointError::NotAFile { path });
        }
        if found.len() != entry.bytes {
            let (found, expected) = (found.len(), entry.bytes);
            return Err(CheckpointError::FileSize { path, found, expected });
        }
    }
    Ok(())
}
