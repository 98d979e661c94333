//! GPT-2-style transformer.
//!
//! Decoder-only transformer with learned positions, layer norm before each sub-layer, an exact GELU
//! and a head that shares the token embedding. Paths follow those of [`llama3`](crate::llama3), so
//! that one plan's patterns fit both: `tok_embeddings`, `pos_embeddings`,
//! `layers.N.{attention_norm,attention.{wq,wk,wv,wo},ffn_norm,feed_forward.{w1,w2}}`, `norm`.
//!
//! It reads no Hugging Face folder: published GPT-2 weights belong to the tanh approximation of
//! GELU, which this model does not compute.

mod block;
mod config;
mod model;
mod recipe;
mod sharding;

pub use block::{Attention, FeedForward, TransformerBlock};
pub use config::{Gpt2Config, Gpt2Shape};
pub use model::Gpt2;
pub use recipe::{Gpt2Recipe, recipe};
pub use sharding::plan;
