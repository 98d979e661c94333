//! Communication between ranks: process groups, the collectives over them, and the backends for
//! ranks that are threads and, with the features `mpi` and `cuda`, processes.
//!
//! | start here | for |
//! | --- | --- |
//! | [`launch`] | ranks as threads of this process, or this process as one rank, with a [`Fabric`] between them |
//! | [`join`] | the world of processes that a launcher such as `mpirun` or `torchrun` started |
//! | [`MeshComm`] | the [`ProcessGroup`] of a rank along any axes of a mesh |
//! | [`ProcessGroup`] | the collectives, blocking and as [`Work`] |
//! | [`Transport`] | the seam behind which other backends fit |
//! | [`differentiable`] | the collectives with gradients, as tensors |
//! | [`CHECKS`], [`handshake`] | finding out whether a world works |
//! | [`CommCounters`] | calls and bytes per operation, for tests and reports |
//!
//! Messages are [`TensorData`](burn::tensor::TensorData): host bytes, shape and element type.
//! Collectives take and return them by value and reuse the buffers, so a tensor that is the only
//! owner of its memory travels without a copy. Tensors of a device stay there where the backend can
//! move them ([`DeviceTransport`]): ranks that are threads hand each other handles and compute on
//! the device.
//!
//! Every call of a group has a sequence number. Members compare operation, shape, element type,
//! reduction and root of each number; a difference, a rank that failed, left or is late, is an
//! error on all members and never a hang.

mod bandwidth;
mod call;
mod checks;
mod counters;
mod device_checks;
pub mod differentiable;
#[cfg(feature = "mpi")]
#[path = "mpi/mod.rs"]
mod engine;
#[cfg(not(feature = "mpi"))]
#[path = "no_engine.rs"]
mod engine;
mod error;
mod fabric;
mod group;
#[cfg(any(feature = "mpi", feature = "cuda", test))]
mod header;
mod identity;
mod launch;
mod local;
mod mesh_comm;
#[cfg(any(feature = "cuda", test))]
pub(crate) mod nccl;
mod problem;
mod process;
mod tensor_work;
mod transport;
mod work;

pub(crate) use crate::backend::Bridge;
pub use crate::backend::Erased;
pub use bandwidth::{algorithm_bandwidth, bus_factor, nominal_bytes};
pub use call::{Call, Collective, Memory, ReduceOp};
pub use checks::{CHECKS, Check, CheckError, handshake};
pub use counters::{CommCounters, OpCount};
pub use device_checks::DeviceCheck;
pub use error::{CommError, Side};
pub use fabric::{Fabric, GroupFamily};
pub use group::ProcessGroup;
pub use identity::GroupIdentity;
pub use launch::{RankContext, RankFailure, RankFault, Ranks, launch, launch_threads};
pub use local::ThreadFabric;
pub use mesh_comm::MeshComm;
pub use problem::CallProblem;
pub use process::{Engine, JoinError, ProcessWorld, Reduction, join, joined, process_engine};
pub(crate) use tensor_work::TensorWork;
pub use tensor_work::{DeviceTransport, PendingTensor};
pub use transport::{CommTimeouts, Pending, Transport};
pub use work::Work;
