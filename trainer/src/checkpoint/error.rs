//! What can go wrong with checkpoints.

use std::io;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, DataError};
use thiserror::Error;

use super::block::{Block, TilingError};
use super::tensor_file::{TensorFileError, TensorFileErrorKind};

/// Keys that an error names before it only counts.
pub(crate) const LISTED: usize = 8;

/// Names the first of some keys and counts the others.
pub(crate) fn listed(keys: &[String], limit: usize) -> String {
    let shown: Vec<String> = keys.iter().take(limit).map(|key| format!("`{key}`")).collect();
    match keys.len().saturating_sub(limit) {
        0 if keys.is_empty() => "none".into(),
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// An error of saving or loading a checkpoint.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The file system refused something.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A tensor file is missing, damaged or cannot be written.
    #[error(transparent)]
    TensorFile(#[from] TensorFileError),
    /// The directory for checkpoints cannot hold any.
    #[error("checkpoint directory `{}` is not writable", path.display())]
    NotWritable {
        /// The directory.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A folder for this step is there already, and checkpoints are never overwritten. A start sets
    /// aside what is newer than its own checkpoint, so somebody else has put it there since.
    #[error("checkpoint `{}` exists already", path.display())]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// The asked step was never saved or has been removed.
    #[error("step {step} has no checkpoint in `{}`, which holds steps {available:?}", root.display())]
    NoSuchStep {
        /// The step.
        step: u64,
        /// The directory of checkpoints.
        root: PathBuf,
        /// Steps that could be opened.
        available: Vec<u64>,
    },
    /// The folder has no manifest: its save did not finish, or it is no checkpoint.
    #[error("`{}` holds no `manifest.json`, so it is not a complete checkpoint", path.display())]
    Incomplete {
        /// The folder.
        path: PathBuf,
    },
    /// Something else lies where a folder or a file of a checkpoint belongs.
    #[error("`{}` is not a regular file or folder of a checkpoint", path.display())]
    NotAFile {
        /// What lies there.
        path: PathBuf,
    },
    /// The manifest is longer than any manifest.
    #[error("manifest `{}` has {found} bytes, more than the limit of {limit}", path.display())]
    ManifestSize {
        /// The manifest.
        path: PathBuf,
        /// Its size.
        found: u64,
        /// The largest size.
        limit: u64,
    },
    /// The manifest lacks the checksum that its version has.
    #[error("manifest `{}` has no checksum: its content was damaged", path.display())]
    NoChecksum {
        /// The manifest.
        path: PathBuf,
    },
    /// The manifest is not what this version writes.
    #[error("manifest `{}` cannot be understood", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// The manifest is JSON of something else.
    #[error("manifest `{}` has format `{found}` instead of `{expected}`", path.display())]
    Format {
        /// The manifest.
        path: PathBuf,
        /// What it says it is.
        found: String,
        /// What it has to be.
        expected: &'static str,
    },
    /// The checkpoint was written by a newer release.
    #[error("manifest `{}` has version {found} but this release reads up to {supported}", path.display())]
    Version {
        /// The manifest.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// The newest known version.
        supported: u64,
    },
    /// The folder's name and its manifest disagree.
    #[error("`{}` holds the manifest of step {found} instead of {expected}", path.display())]
    Step {
        /// The folder.
        path: PathBuf,
        /// The step in the manifest.
        found: u64,
        /// The step in the name.
        expected: u64,
    },
    /// The manifest names a file outside of its folder or one that it does not list.
    #[error("manifest refers to file `{file}`, which is no tensor file of the checkpoint")]
    ForeignFile {
        /// The file as named.
        file: String,
    },
    /// A file was cut short or replaced.
    #[error("`{}` has {found} bytes instead of {expected}", path.display())]
    FileSize {
        /// The file.
        path: PathBuf,
        /// Its size.
        found: u64,
        /// Its size when it was written.
        expected: u64,
    },
    /// The bytes of a file changed since they were written.
    #[error("`{}` has checksum {found} instead of {expected}: its content was damaged", path.display())]
    Checksum {
        /// The file.
        path: PathBuf,
        /// The checksum of its bytes.
        found: String,
        /// The checksum when it was written.
        expected: String,
    },
    /// Manifest and tensor file disagree on a block.
    #[error("block {block} of `{key}` is {expected} in the manifest but {found} in `{}`", path.display())]
    BlockMismatch {
        /// The tensor.
        key: String,
        /// Its block.
        block: Box<Block>,
        /// Type and shape in the manifest.
        expected: String,
        /// Type and shape in the file.
        found: String,
        /// The file.
        path: PathBuf,
    },
    /// The blocks of a tensor are not a partition of it.
    #[error("tensor `{key}` is not whole")]
    Tiling {
        /// The tensor.
        key: String,
        /// The fault.
        source: Box<TilingError>,
    },
    /// The checkpoint has no such tensor.
    #[error("checkpoint `{}` has no tensor `{key}`", path.display())]
    UnknownKey {
        /// The tensor.
        key: String,
        /// The checkpoint.
        path: PathBuf,
    },
    /// The run's tensors and the checkpoint's have different names.
    #[error(
        "checkpoint `{}` does not match the run: missing {}; unexpected {}",
        path.display(),
        listed(missing, LISTED),
        listed(unexpected, LISTED)
    )]
    KeysDiffer {
        /// The checkpoint.
        path: PathBuf,
        /// What the run needs and the checkpoint lacks.
        missing: Vec<String>,
        /// What the checkpoint has and the run does not know.
        unexpected: Vec<String>,
    },
    /// A tensor has another global shape than the run's.
    #[error("tensor `{key}` has shape {found:?} in the checkpoint but {expected:?} in the run")]
    ShapeDiffers {
        /// The tensor.
        key: String,
        /// Its shape in the checkpoint.
        found: Vec<usize>,
        /// The shape that was asked for.
        expected: Vec<usize>,
    },
    /// A block was asked for that the tensor does not have.
    #[error("block {block} of `{key}` lies outside of its shape {shape:?}")]
    OutOfBounds {
        /// The tensor.
        key: String,
        /// The asked block.
        block: Block,
        /// The global shape.
        shape: Vec<usize>,
    },
    /// A key that cannot name a tensor in a file.
    #[error("`{key}` is no tensor key: it must be non-empty, without `#`, and not `__metadata__`")]
    InvalidKey {
        /// The key.
        key: String,
    },
    /// The element type has no form on disk.
    #[error("tensor `{key}` has element type `{dtype}`, which checkpoints do not store")]
    UnsupportedType {
        /// The tensor.
        key: String,
        /// Its type.
        dtype: String,
    },
    /// Two ranks say different things about one tensor.
    #[error("ranks disagree on tensor `{key}`: {first} and {second}")]
    RanksDisagree {
        /// The tensor.
        key: String,
        /// One description.
        first: String,
        /// The other description.
        second: String,
    },
    /// Two ranks wrote the same file.
    #[error("rank {rank} saved twice in one checkpoint")]
    DuplicateRank {
        /// The rank.
        rank: usize,
    },
    /// The bytes read do not form a tensor of this host.
    #[error("tensor `{key}` cannot be held in memory")]
    Host {
        /// The tensor.
        key: String,
        /// The reason.
        source: DataError,
    },
    /// The thread that wrote in the background died.
    #[error("the thread writing the checkpoint panicked: {message}")]
    WriterPanicked {
        /// What it said.
        message: String,
    },
}

impl CheckpointError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_path_buf(), source }
    }

    pub(crate) fn unsupported(key: &str, dtype: DType) -> Self {
        Self::UnsupportedType { key: key.to_owned(), dtype: dtype.name().to_owned() }
    }

    /// Returns whether the checkpoint itself is damaged or unfinished, so that an older one is the
    /// right answer.
    ///
    /// A checkpoint of a newer release or one that the system refuses to read is intact: passing
    /// over it would silently train on from an older state.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::TensorFile(error) => {
                !matches!(error.kind, TensorFileErrorKind::Read(_) | TensorFileErrorKind::Write(_))
            }
            Self::Incomplete { .. }
            | Self::NotAFile { .. }
            | Self::ManifestSize { .. }
            | Self::NoChecksum { .. }
            | Self::Manifest { .. }
            | Self::Format { .. }
            | Self::Step { .. }
            | Self::ForeignFile { .. }
            | Self::FileSize { .. }
            | Self::Checksum { .. }
            | Self::BlockMismatch { .. }
            | Self::Tiling { .. }
            | Self::UnsupportedType { .. } => true,
            _ => false,
        }
    }
}
