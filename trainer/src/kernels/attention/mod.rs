//! Scaled dot-product attention: causal, windowed, within documents, with grouped key-value heads.
//!
//! The kernel works on blocks of queries and keys with an online softmax and keeps only the output and one number per
//! query and head, so that memory grows linearly with the sequence. A task takes one head of one sequence: it copies the head out
//! of `[batch, sequence, heads, head_dim]` once and multiplies blocks that stay in the first-level cache.

mod block;
#[cfg(feature = "cuda")]
mod candidate;
mod composed;
#[cfg(feature = "cuda")]
mod cudnn;
mod flex_backward;
mod flex_forward;
#[cfg(feature = "cuda")]
mod gpu;
mod mask;
mod operation;
mod options;
mod pack;
mod reference;
mod strips;
mod tile;

pub use block::{attention_block, attention_block_backward};
#[cfg(feature = "cuda")]
pub(crate) use candidate::Preference;
pub use operation::attention;
pub use options::AttentionOptions;
