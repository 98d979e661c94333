//! Training data: files become tokens, tokens become sequences, sequences become the batches of
//! each rank.
//!
//! ```text
//! DataConfig --resolve--> DataPlan --Dataset::open--> Splits { train, validation }
//! Dataset --Loader::new--> Loader --Prefetcher::new--> Prefetcher --next_step--> Vec<Batch>
//! ```
//!
//! A token stream is cut into sequences at fixed places: sequence `i` starts at token `i * length`
//! and takes `length + 1` tokens, the inputs and, shifted by one, the labels. A [`Loader`] visits the
//! sequences in stream order or shuffled; every optimizer step takes the next `global_batch_size`
//! of them, whatever the number of ranks, so a run sees the same global batches on every mesh and
//! resumes exactly, on the same mesh or another.
//!
//! Nothing here builds a tensor or talks to a rank: batches are plain vectors.

mod aside;
mod batch;
mod bytes;
mod cache;
mod config;
mod dataset;
mod documents;
mod error;
mod files;
mod fingerprint;
mod input;
mod jsonl;
mod loader;
mod mix;
mod open;
mod options;
mod packing;
mod permutation;
mod plan;
mod prefetch;
mod prepare;
mod resolve;
mod sidecar;
mod split;
mod state;
mod stream;
mod synthetic;
mod token_file;
mod tokenizer;

pub use batch::Batch;
pub use config::{DataConfig, SourceName, TokenWidth};
pub use dataset::{Dataset, Splits};
pub use documents::DocumentFormat;
pub use error::DataError;
pub use fingerprint::Fingerprint;
pub use loader::Loader;
pub use options::{LastBatch, LoaderOptions};
pub use packing::IGNORED_LABEL;
pub use permutation::Permutation;
pub use plan::{DataPlan, SourcePlan, TokenizerChoice, ValidationPlan};
pub use prefetch::Prefetcher;
pub use prepare::{PrepareOptions, PreparedTokens, prepare};
pub use sidecar::{Sidecar, sidecar_path};
pub use state::LoaderState;
pub use tokenizer::{Tokenizer, TokenizerOptions};
