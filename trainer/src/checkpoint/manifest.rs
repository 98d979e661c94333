//! The manifest: what a checkpoint holds and where. Versioned, strict, free of Burn.
//!
//! From version 2 on it has a checksum of its own, `"xxh3":"0123456789abcdef"`: XXH3 (64 bit) of the
//! text without these 16 digits. Every later version keeps it, and where the text has it: that is how
//! a manifest of a newer release is told from a damaged one.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::ops::Range;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use xxhash_rust::xxh3::Xxh3;

use super::block::{Block, check_tiling};
use super::error::CheckpointError;
use super::{dtype, save::RankFile};

/// Name of the manifest in its folder; its presence completes a checkpoint.
pub(crate) const FILE_NAME: &str = "manifest.json";
/// Value of the `format` field.
const FORMAT: &str = "dream-train-checkpoint";
/// First version with a checksum of the manifest.
const FIRST_WITH_CHECKSUM: u64 = 2;
/// What comes before the digits of the checksum.
const CHECKSUM_KEY: &[u8] = br#""xxh3":""#;
/// The digits as long as they are not known.
const NO_CHECKSUM: &str = "0000000000000000";
/// Bytes of a manifest at most: what a thousand ranks write of a thousand tensors fits a few times.
const MAX_BYTES: u64 = 1 << 30;

/// The description of one checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// What this file is.
    format: String,
    /// Version of the layout described here.
    version: u64,
    /// Checksum of the text; absent in version 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    xxh3: Option<String>,
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
    pub const VERSION: u64 = 2;

    /// Puts together what all ranks wrote, and checks that every tensor is whole.
    pub(crate) fn assemble(
        step: u64,
        run: RunState,
        ranks: Vec<RankFile>,
    ) -> Result<Self, CheckpointError> {
        let mut manifest = Self {
            format: FORMAT.to_owned(),
            version: Self::VERSION,
            xxh3: Some(NO_CHECKSUM.to_owned()),
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
        let text = read_text(folder, &path)?;
        let damaged = |source| CheckpointError::Manifest { path: path.clone(), source };
        let preamble: Preamble = serde_json::from_slice(&text).map_err(damaged)?;
        if preamble.format != FORMAT {
            let (found, expected) = (preamble.format, FORMAT);
            return Err(CheckpointError::Format { path, found, expected });
        }
        if preamble.version >= FIRST_WITH_CHECKSUM {
            check_text(&text, &path)?;
        }
        if preamble.version > Self::VERSION {
            let (found, supported) = (preamble.version, Self::VERSION);
            return Err(CheckpointError::Version { path, found, supported });
        }
        let manifest: Self = serde_json::from_slice(&text).map_err(damaged)?;
        if preamble.version < FIRST_WITH_CHECKSUM && manifest.xxh3.is_some() {
            // The version itself was damaged.
            check_text(&text, &path)?;
        }
        manifest.validate()?;
        Ok(manifest)
    }

    /// Writes the manifest into `folder` and syncs it.
    pub(crate) fn write(&self, folder: &Path) -> Result<(), CheckpointError> {
        let path = folder.join(FILE_NAME);
        let mut text = serde_json::to_vec(self)
            .map_err(|source| CheckpointError::Manifest { path: path.clone(), source })?;
        let digits = checksum_digits(&text).expect("a manifest that was put together has them");
        let sum = checksum(&text, &digits);
        text[digits].copy_from_slice(sum.as_bytes());
        let write = || {
            let mut file = fs::File::create_new(&path)?;
            file.write_all(&text)?;
            file.sync_all()
        };
        write().map_err(CheckpointError::io("write", &path))
    }
}

/// Reads the text of a manifest. What is no file, a pipe for instance, is not opened.
fn read_text(folder: &Path, path: &Path) -> Result<Vec<u8>, CheckpointError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            CheckpointError::Incomplete { path: folder.to_path_buf() }
        }
        _ => CheckpointError::io("read", path)(error),
    };
    let found = fs::metadata(path).map_err(failed)?;
    if !found.is_file() {
        return Err(CheckpointError::NotAFile { path: path.to_path_buf() });
    }
    if found.len() > MAX_BYTES {
        let (path, found) = (path.to_path_buf(), found.len());
        return Err(CheckpointError::ManifestSize { path, found, limit: MAX_BYTES });
    }
    fs::read(path).map_err(failed)
}

/// Compares a text with the checksum in it.
fn check_text(text: &[u8], path: &Path) -> Result<(), CheckpointError> {
    let Some(digits) = checksum_digits(text) else {
        return Err(CheckpointError::NoChecksum { path: path.to_path_buf() });
    };
    let found = checksum(text, &digits);
    if found.as_bytes() == &text[digits.clone()] {
        return Ok(());
    }
    let expected = String::from_utf8_lossy(&text[digits]).into_owned();
    Err(CheckpointError::Checksum { path: path.to_path_buf(), found, expected })
}

/// Finds the digits of the checksum: they follow the first key of that name.
fn checksum_digits(text: &[u8]) -> Option<Range<usize>> {
    let key = text.windows(CHECKSUM_KEY.len()).position(|window| window == CHECKSUM_KEY)?;
    let start = key + CHECKSUM_KEY.len();
    let end = start + NO_CHECKSUM.len();
    (end <= text.len()).then_some(start..end)
}

/// Returns the checksum of a text without its digits.
fn checksum(text: &[u8], digits: &Range<usize>) -> String {
    let mut hash = Xxh3::new();
    hash.update(&text[..digits.start]);
    hash.update(&text[digits.end..]);
    format!("{:016x}", hash.digest())
}

/// Whether `name` stays in the folder it is joined to.
pub(crate) fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', ':', '\0'])
}
