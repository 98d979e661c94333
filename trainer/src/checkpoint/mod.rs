//! Checkpoints: the state of a run on disk, independent of the mesh that wrote it.
//!
//! A checkpoint is one folder. Every saving rank streams its local blocks into one safetensors
//! file; a versioned `manifest.json` says which block of which global tensor lies where, and
//! carries the mesh, the configuration and the small state (counters, data position, schedules,
//! callbacks). Tensors are keyed by a section and the parameter path:
//! `model/layers.0.attention.wq.weight`.
//!
//! ```text
//! checkpoints/
//!   step-00000100/          complete: it has this name and holds a manifest
//!     rank-00000.safetensors
//!     rank-00001.safetensors
//!     manifest.json         written last
//!   step-00000110.damaged-1/    set aside because it was damaged
//!   step-00000110.superseded-1/ set aside because a branch began below it
//!   .step-00000120.partial/     being written, or left by a run that died
//! ```
//!
//! # Saving
//!
//! [`CheckpointStore::begin`] on one rank, a barrier, [`CheckpointStore::join`] on the others;
//! [`Save::write_rank`] on every rank that holds something; gather the [`RankFile`]s on the first
//! rank; [`Save::commit`]. Files are synced before the manifest is written and the folder is
//! renamed after it, so a process killed at any moment leaves either the whole new checkpoint or
//! none of it, and the previous one untouched. [`Background`] moves the writing off the training
//! thread.
//!
//! # Loading
//!
//! [`CheckpointStore::scan`] finds the newest usable step and says why newer folders were passed
//! over. Nothing is overwritten and no step is saved twice: [`CheckpointStore::set_aside_damaged`] and
//! [`CheckpointStore::set_aside_after`] rename what is in the way. [`Checkpoint::read_block`] assembles any block from whatever blocks were written, so a run
//! loads on any mesh. A file is checked against its checksum before its first byte is handed out.
//!
//! # Versions
//!
//! A reader knows every version up to [`Manifest::VERSION`]; a newer one is an error, never a
//! guess. From version 2 on a manifest has a checksum of its own, which tells a newer version from a
//! damaged one. Manifests are strict: a new field means a new version, because an older reader cannot
//! know whether ignoring it is harmless. Nothing rewrites a manifest, so nothing is lost by reading
//! with another version.
//!
//! This module knows neither models nor ranks' communication: tensors come and go as
//! [`burn::tensor::TensorData`]. [`hf`] reads and writes Hugging Face directories.

mod background;
mod block;
mod config;
mod dtype;
mod error;
pub mod hf;
mod host;
mod load;
mod manifest;
mod retention;
mod save;
mod selection;
mod store;
mod tensor_file;

pub use background::Background;
pub use block::{Block, TilingError};
pub use config::{CheckpointConfig, ResetPart, ResumeMode};
pub use error::CheckpointError;
pub(crate) use error::{LISTED, listed};
pub use load::Checkpoint;
pub use manifest::{BlockEntry, FileEntry, Manifest, RunState, TensorEntry};
pub use save::{RankFile, Save, SavedBlock, Shard};
pub use selection::{Selection, SelectionError};
pub use store::{Check, CheckpointStore, Scan, Skipped};
pub use tensor_file::{TensorFileError, TensorFileErrorKind};
