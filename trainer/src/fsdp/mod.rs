//! Fully sharded data parallelism, and activation checkpointing: both work on [`Unit`]s.
//!
//! | start here | for |
//! | --- | --- |
//! | [`Unit`] | a module that is gathered, or computed again, as one |
//! | [`FullyShard`] | sharding the units of a model; stages 1, 2 and 3, HSDP |
//! | [`ActivationCheckpointing`] | which units compute their activations again |
//! | [`axes_to_reduce`] | what is left to be summed after the backward pass |
//!
//! A unit is one place on Burn's tape. Its backward pass gathers parameters, possibly runs the body
//! again under a tape of its own, and reduces gradients at once, so the user's `loss.backward()`
//! stays plain, collectives happen in program order on all ranks, and memory is bounded by the
//! units in flight. No tensor on a tape ever crosses ranks.

mod apply;
mod checkpointing;
mod config;
mod erased;
mod error;
mod flat;
mod inline;
mod live;
mod observed;
mod params;
mod recompute;
mod reduce;
mod schedule;
mod sharing;
mod tape;
mod tape_autodiff;
mod unit;
mod weights;

pub use crate::comm::Erased;
pub use apply::{FullyShard, axes_to_reduce};
pub use checkpointing::ActivationCheckpointing;
pub use config::{FullyShardConfig, Reshard};
pub use erased::FloatTensors;
pub use error::FsdpError;
pub use live::GatheredBytes;
pub use unit::Unit;
