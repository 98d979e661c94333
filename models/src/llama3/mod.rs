//! Llama 3.
//!
//! Decoder-only transformer with grouped-query attention, rotary positions (rotate-half, with the
//! frequency scalings of Hugging Face's Llama), RMS norm before each sub-layer and a gated feed-forward. Parameter
//! paths are torchtitan's names: `tok_embeddings`,
//! `layers.N.{attention_norm,attention.{wq,wk,wv,wo},ffn_norm,feed_forward.{w1,w2,w3}}`, `norm`,
//! `output`.

mod block;
mod config;
mod hf_config;
mod hf_rope;
mod model;
mod recipe;
mod rope;
mod rope_scaling;
mod shape;
mod sharding;
mod state_dict;

pub use block::{Attention, BlockContext, FeedForward, TransformerBlock};
pub use config::{Flavor, Llama3Config};
pub use model::{Llama3, TokenLayout};
pub use recipe::{Llama3Recipe, recipe};
pub use rope::RopeCache;
pub use rope_scaling::{Llama3Scaling, RopeScaling, RopeScalingConfig, RopeType, YarnScaling};
pub use shape::Llama3Shape;
pub use sharding::plan;
pub use state_dict::{hf_weights, is_redundant_hf_tensor};
