//! Models of dream-train: Llama 3, a GPT-2-style transformer and an MLP.
//!
//! A model is written for one device: its `model.rs` names no rank, mesh or collective. Each has a
//! strict configuration (`config.rs`), a module (`model.rs`) and, where Hugging Face publishes
//! weights for it, the table between its names and ours (`state_dict.rs`).
//!
//! | module | model |
//! | --- | --- |
//! | [`llama3`] | Llama 3: grouped-query attention, rotary positions, RMS norm, SwiGLU |
//! | [`gpt2`] | GPT-2-style transformer: learned positions, layer norm, GELU, tied head |
//! | [`mlp`] | Multi-layer perceptron with ReLU or GELU |

mod activations;
mod error;
mod head;
mod hf_source;
mod hf_weight;
mod size;

pub mod gpt2;
pub mod llama3;
pub mod mlp;

pub use error::ModelError;
pub use head::HeadWeight;
pub use hf_source::HfSource;
pub use hf_weight::{HfWeight, HfWeights};

/// Returns the recipes of all models, as the `dream-train` program registers them.
pub fn recipes() -> [dream_trainer::recipe::Recipe; 3] {
    [llama3::recipe(), gpt2::recipe(), mlp::recipe()]
}
