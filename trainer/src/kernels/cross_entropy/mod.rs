//! The training loss: cross-entropy over logits, and fused with the output projection.

mod composed_head;
#[cfg(feature = "cube")]
mod cube;
mod fused_head;
mod logits;
mod rows;
mod shard;

pub use fused_head::{linear_cross_entropy, tied_linear_cross_entropy};
pub use logits::cross_entropy;
pub use rows::IGNORE_INDEX;
pub use shard::{shard_gradients, shard_maxima, shard_sums};
