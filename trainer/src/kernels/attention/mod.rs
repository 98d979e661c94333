//! Scaled dot-product attention: causal, windowed, within documents, with grouped key-value heads.
//!
//! The kernel works on blocks of queries and keys with an online softmax and keeps only the output and one number per
//! query and head, so that memory grows linearly with the sequence. Heads are read in place from `[batch, sequence, heads,
//! head_dim]`; nothing is transposed.

mod block;
mod flex_backward;
mod flex_forward;
mod mask;
mod operation;
mod options;
mod reference;

pub use block::{attention_block, attention_block_backward};
pub use operation::attention;
pub use options::AttentionOptions;
