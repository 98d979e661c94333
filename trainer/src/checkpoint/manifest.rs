//! The manifest: what a checkpoint holds and where. Versioned, strict, free of Burn.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::block::{Block, check_tiling};
use super::error::CheckpointError;
use super::{dtype, save::RankFile};

/// Name of the manifest in its folder; its presence completes a checkpoint.
pub(crate) const FILE_NAME: &str = "manifest.json";
/// Value of the `format` field.
const FORMAT: &str = "dream-train-checkpoint";

/// The description of one checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// What this file is.
    format: String,
    /// Version of the layout described here.
    version: u64,
    /// Optimizer steps taken.
    pub step: u64,
    /// The rest of the state, apart from tensors.
    pub run: RunState,
    /// The tensor files by name.
    pub files: BTreeMap<String, FileEntry>,
    /// The tensors by key.
    pub tensors: BTreeMap<String, TensorEntry>,
}

/// What a run saves besides tensors, as values that only their owners understand.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunState {
    /// The mesh that wrote the checkpoint, with its axis order. Loading on another one is a
    /// reshard, which the loader can tell from this field.
    pub mesh: Value,
    /// The resolved configuration.
    pub config: Value,
    /// Counters, data position, schedules, random state, callbacks. What differs between ranks is
    /// gathered by the caller: one value is kept per key. JSON has no infinities and no NaN, which
    /// would be saved as null.
    pub state: Value,
}

/// Size and checksum of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Length in bytes.
    pub bytes: u64,
    /// XXH3 (64 bit) of the whole file, as 16 hexadecimal digits.
    pub xxh3: String,
}

/// One global tensor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorEntry {
    /// Element type: `f32`, `bf16`, `i64` ..
    pub dtype: String,
    /// Global shape.
    pub shape: Vec<usize>,
    /// Its parts, which together hold every element once.
    pub blocks: Vec<BlockEntry>,
}

/// Where a block of a tensor lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockEntry {
    /// The file.
    pub file: String,
    /// The name inside the file.
    pub name: String,
    /// The part of the global tensor.
    pub block: Block,
}

/// The two fields every version has; they are read before anything else is believed.
#[derive(Deserialize)]
struct Preamble {
    format: String,
    version: u64,
}

impl Manifest {
    /// The newest version, and the one that is written.
    pub const VERSION: u64 = 1;

    /// Puts together what all ranks wrote, and checks that every tensor is whole.
    pub(crate) fn assemble(
        step: u64,
        run: RunState,
        ranks: Vec<RankFile>,
    ) -> Result<Self, CheckpointError> {
        let mut manifest = Self {
            format: FORMAT.to_owned(),
            version: Self::VERSION,
            step,
            run,
            files: BTreeMap::new(),
            tensors: BTreeMap::new(),
        };
        for rank in ranks {
            manifest.add(rank)?;
        }
        manifest.validate()?;
        Ok(manifest)
    }

    fn add(&mut self, saved: RankFile) -> Result<(), CheckpointError> {
        let Some(entry) = saved.entry else {
            return Ok(());
        };
        if self.files.insert(saved.file.clone(), entry).is_some() {
            return Err(CheckpointError::DuplicateRank { rank: saved.rank });
        }
        for block in saved.blocks {
            let (dtype, shape) = (block.dtype, block.global_shape);
            let tensor = self.tensors.entry(block.key.clone()).or_insert_with(|| TensorEntry {
                dtype: dtype.clone(),
                shape: shape.clone(),
                blocks: Vec::new(),
            });
            if tensor.dtype != dtype || tensor.shape != shape {
                return Err(CheckpointError::RanksDisagree {
                    key: block.key,
                    first: format!("{}{:?}", tensor.dtype, tensor.shape),
                    second: format!("{dtype}{shape:?}"),
                });
            }
            let (file, name) = (saved.file.clone(), block.name);
            tensor.blocks.push(BlockEntry { file, name, block: block.block });
        }
        Ok(())
    }

    /// Checks everything that can be checked without opening the tensor files.
    fn validate(&self) -> Result<(), CheckpointError> {
        let foreign = |file: &str| CheckpointError::ForeignFile { file: file.to_owned() };
        if let Some(file) = self.files.keys().find(|file| !is_plain_name(file)) {
            return Err(foreign(file));
        }
        for (key, tensor) in &self.tensors {
            if dtype::from_name(&tensor.dtype).is_none() {
                return Err(CheckpointError::UnsupportedType {
                    key: key.clone(),
                    dtype: tensor.dtype.clone(),
                });
            }
            if let Some(block) = tensor.blocks.iter().find(|b| !self.files.contains_key(&b.file)) {
                return Err(foreign(&block.file));
            }
            let blocks: Vec<&Block> = tensor.blocks.iter().map(|entry| &entry.block).collect();
            check_tiling(&tensor.shape, &blocks).map_err(|source| CheckpointError::Tiling {
                key: key.clone(),
                source: Box::new(source),
            })?;
        }
        Ok(())
    }

    /// Reads and checks the manifest of `folder`.
    pub(crate) fn read(folder: &Path) -> Result<Self, CheckpointError> {
        let path = folder.join(FILE_NAME);
        let text = fs::read(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => CheckpointError::Incomplete { path: folder.to_path_buf() },
            _ => CheckpointError::io("read", &path)(error),
        })?;
        let damaged = |source| CheckpointError::Manifest { path: path.clone(), source };
        let preamble: Preamble = serde_json::from_slice(&text).map_err(damaged)?;
        if preamble.format != FORMAT {
            let (found, expected) = (preamble.format, FORMAT);
            return Err(CheckpointError::Format { path, found, expected });
        }
        if preamble.version > Self::VERSION {
            let (found, supported) = (preamble.version, Self::VERSION);
            return Err(CheckpointError::Version { path, found, supported });
        }
        let manifest: Self = serde_json::from_slice(&text).map_err(damaged)?;
        manifest.validate()?;
        Ok(manifest)
    }

    /// Writes the manifest into `folder` and syncs it.
    pub(crate) fn write(&self, folder: &Path) -> Result<(), CheckpointError> {
        let path = folder.join(FILE_NAME);
        let text = serde_json::to_vec(self)
            .map_err(|source| CheckpointError::Manifest { path: path.clone(), source })?;
        let write = || {
            let mut file = fs::File::create_new(&path)?;
            file.write_all(&text)?;
            file.sync_all()
        };
        write().map_err(CheckpointError::io("write", &path))
    }
}

/// Whether `name` stays in the folder it is joined to.
pub(crate) fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', ':', '\0'])
}
