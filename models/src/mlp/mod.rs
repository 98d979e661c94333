//! Multi-layer perceptron.
//!
//! A chain of linear layers with an activation between them, at paths `layers.N.weight`. Two uses:
//! two bias-free layers with `relu`, and a deep `gelu` network that also activates its output.

mod config;
mod data;
mod model;
mod recipe;
mod sharding;

pub use config::{Activation, MlpConfig};
pub use data::RowBatch;
pub use model::Mlp;
pub use recipe::{MlpRecipe, recipe};
pub use sharding::{column_plan, plan};
