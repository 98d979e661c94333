//! Writing one checkpoint: every rank its file, then the manifest, then the rename that makes it
//! count.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::TensorData;
use serde::{Deserialize, Serialize};

use super::block::Block;
use super::dtype;
use super::error::CheckpointError;
use super::load::Checkpoint;
use super::manifest::{FileEntry, Manifest, RunState};
use super::tensor_file::{self, TensorSource};

/// A local block of a global tensor, in host memory.
#[derive(Debug, Clone)]
pub struct Shard {
    /// Shape of the whole tensor.
    pub global_shape: Vec<usize>,
    /// Where the block starts in each dim.
    pub offset: Vec<usize>,
    /// The block; its shape is the block's.
    pub data: TensorData,
}

impl Shard {
    /// Makes the shard that is the whole tensor.
    pub fn whole(data: TensorData) -> Self {
        let global_shape = data.shape().as_slice().to_vec();
        Self { offset: vec![0; global_shape.len()], global_shape, data }
    }
}

/// What one rank wrote; gathered on the committing rank, hence serializable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RankFile {
    /// The rank.
    pub rank: usize,
    /// The name of its file.
    pub file: String,
    /// Size and checksum, none if the rank held nothing and wrote no file.
    pub entry: Option<FileEntry>,
    /// The blocks in it.
    pub blocks: Vec<SavedBlock>,
}

/// One block as a rank wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedBlock {
    /// The tensor.
    pub key: String,
    /// The name inside the file.
    pub name: String,
    /// Element type.
    pub dtype: String,
    /// Shape of the whole tensor.
    pub global_shape: Vec<usize>,
    /// The part of the tensor.
    pub block: Block,
}

/// A checkpoint being written. Dropping it leaves an uncommitted folder, which the next save
/// removes.
#[derive(Debug, Clone)]
pub struct Save {
    pub(crate) root: PathBuf,
    pub(crate) partial: PathBuf,
    pub(crate) complete: PathBuf,
    pub(crate) step: u64,
}

impl Save {
    /// Returns the step being saved.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// Streams the blocks of one rank into its file and syncs it.
    ///
    /// A tensor that several ranks hold in full is passed by one of them only. A rank may pass
    /// several blocks of one tensor. Empty blocks of tensors that are not empty themselves are
    /// skipped.
    ///
    /// # Errors
    ///
    /// A block outside of its tensor, a type without a form on disk, a failed write. The folder
    /// stays uncommitted.
    pub fn write_rank(
        &self,
        rank: usize,
        shards: impl IntoIterator<Item = (String, Shard)>,
    ) -> Result<RankFile, CheckpointError> {
        let shards: Vec<(String, Shard)> = shards.into_iter().collect();
        let file = format!("rank-{rank:05}.safetensors");
        let (blocks, sources) = describe_all(&shards)?;
        if blocks.is_empty() {
            return Ok(RankFile { rank, file, entry: None, blocks });
        }
        let written = tensor_file::write(&self.partial.join(&file), sources, None)?;
        let entry = FileEntry { bytes: written.bytes, xxh3: format!("{:016x}", written.checksum) };
        Ok(RankFile { rank, file, entry: Some(entry), blocks })
    }

    /// Makes the checkpoint count, once the files of all ranks are there.
    ///
    /// Every tensor must be whole: blocks that overlap or leave gaps are errors here, not when a
    /// later run loads.
    pub fn commit(
        self,
        run: RunState,
        ranks: Vec<RankFile>,
    ) -> Result<Checkpoint, CheckpointError> {
        let manifest = Manifest::assemble(self.step, run, ranks)?;
        super::load::check_files(&self.partial, &manifest)?;
        manifest.write(&self.partial)?;
        sync_folder(&self.partial)?;
        if self.complete.exists() {
            return Err(CheckpointError::Exists { path: self.complete });
        }
        fs::rename(&self.partial, &self.complete)
            .map_err(CheckpointError::io("rename", &self.partial))?;
        sync_folder(&self.root)?;
        Checkpoint::open(&self.complete)
    }
}

/// What each block is, for the manifest and for the tensor file, in the same order.
fn describe_all(
    shards: &[(String, Shard)],
) -> Result<(Vec<SavedBlock>, Vec<TensorSource<'_>>), CheckpointError> {
    let mut seen = BTreeMap::<&str, usize>::new();
    let mut described = Vec::new();
    for (key, shard) in shards {
        if shard.data.num_elements() == 0 && !shard.global_shape.contains(&0) {
            continue;
        }
        let nth = seen.entry(key).and_modify(|nth| *nth += 1).or_default();
        let name = if *nth == 0 { key.clone() } else { format!("{key}#{nth}") };
        described.push(describe(key, name, shard)?);
    }
    Ok(described.into_iter().unzip())
}

fn describe<'a>(
    key: &str,
    name: String,
    shard: &'a Shard,
) -> Result<(SavedBlock, TensorSource<'a>), CheckpointError> {
    if key.is_empty() || key.contains(['#', '\0']) || key == "__metadata__" {
        return Err(CheckpointError::InvalidKey { key: key.to_owned() });
    }
    let shape = shard.data.shape().as_slice().to_vec();
    let block = Block::new(shard.offset.clone(), shape.clone());
    if !block.fits(&shard.global_shape) {
        let (key, shape) = (key.to_owned(), shard.global_shape.clone());
        return Err(CheckpointError::OutOfBounds { key, block, shape });
    }
    let unsupported = || CheckpointError::unsupported(key, shard.data.dtype());
    let file_type = dtype::to_file(shard.data.dtype()).ok_or_else(unsupported)?;
    let dtype = dtype::name(file_type).ok_or_else(unsupported)?.to_owned();
    let bytes = shard.data.as_bytes();
    let source = TensorSource { name: name.clone(), dtype: file_type, shape, bytes };
    let global_shape = shard.global_shape.clone();
    Ok((SavedBlock { key: key.to_owned(), name, dtype, global_shape, block }, source))
}

/// Makes names created in or renamed within `path` survive a power cut.
#[cfg(unix)]
pub(crate) fn sync_folder(path: &Path) -> Result<(), CheckpointError> {
    let sync = || fs::File::open(path)?.sync_all();
    sync().map_err(CheckpointError::io("sync", path))
}

/// Does nothing: folders cannot be opened for syncing here, the file system journals renames by
/// itself.
#[cfg(not(unix))]
pub(crate) fn sync_folder(_path: &Path) -> Result<(), CheckpointError> {
    Ok(())
}
