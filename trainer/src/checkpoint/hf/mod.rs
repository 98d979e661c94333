//! Hugging Face directories: `config.json`, safetensors weights in one or several files,
//! `tokenizer.json`.
//!
//! This is the neutral half: what is on disk, strictly checked. Which tensor is which parameter,
//! and what the fields of `config.json` mean, is for each model to say; [`FieldReader`] makes sure
//! that it says so for every field.
//!
//! Weights of linear layers are stored `[out, in]`; [`Layout::Transposed`] reads them the other way
//! round, and only the block a rank needs.

mod directory;
mod error;
mod export;
mod fields;

pub use directory::{HfDirectory, Layout};
pub use error::HfError;
pub use export::export;
pub use fields::{FieldReader, HARMLESS_FIELDS};
