//! The backend for ranks that are threads of one process.
//!
//! [`ThreadFabric`] joins the ranks and holds one [`rendezvous`] per group. There each member leaves its
//! buffer and its description of the call; when the last has come the operation becomes a [`job`]
//! of small tasks over all buffers, and members that wait carry them out together. No rank is a
//! bottleneck, no thread exists only for communication, and what a rank does between `issue` and
//! `wait` is its own. Device tensors are handed over as they are: each member computes its own
//! result of them on its device ([`exchange`]).

#[cfg(any(feature = "mpi", feature = "cuda", test))]
pub(super) mod blocks;
mod calls;
mod endpoint;
mod exchange;
mod fabric;
mod job;
pub(super) mod mailbox;
pub(super) mod plan;
pub(super) mod reduce;
pub(super) mod rendezvous;
pub(super) mod storage;

use burn::tensor::TensorData;

use crate::backend::Settled;

pub use fabric::ThreadFabric;

/// What a member gives to a collective.
#[cfg_attr(
    feature = "cube",
    expect(clippy::large_enum_variant, reason = "it is moved a few times per collective")
)]
#[derive(Debug)]
pub(super) enum Input {
    Host(TensorData),
    Device(Settled),
}
