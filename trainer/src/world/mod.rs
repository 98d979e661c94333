//! Who this rank is: its number, the size of the world, and how it was started.
//!
//! A rank is a thread of this process (the embedded default), or a process started by an outside
//! launcher that announced itself in the environment. [`mod@env`] is the only reader of environment
//! variables in the crate; [`run_ranks`] starts the ranks of this process. Nothing here communicates:
//! that is [`crate::comm`].

pub mod env;
mod gate;
#[cfg(feature = "cuda")]
mod gpu;
#[cfg(not(feature = "cuda"))]
#[path = "no_gpu.rs"]
mod gpu;
mod home;
mod host;
mod identity;
mod launch;
mod memory;
mod slurm;

#[cfg(feature = "cuda")]
pub use gpu::GpuSoftware;
pub use gpu::{nccl_version, visible_gpus};
pub(crate) use home::why_no_home;
pub use home::{path_with_home, with_home};
pub use host::host_name;
pub use identity::{Launcher, World, WorldError};
pub(crate) use launch::check_number;
pub use launch::{
    Fault, MOST_RANKS, Outcomes, Panic, RANK_THREAD_PREFIX, StartError, rank_of_thread,
    run_rank_threads, run_ranks, threads_per_rank,
};
pub use memory::memory_bytes;
