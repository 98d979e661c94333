//! Worlds of processes: joining the one an outside launcher started.

use std::fmt;
use std::sync::{Arc, OnceLock};

use super::{CommError, CommTimeouts, Fabric, engine};
use crate::world::{Launcher, World, env::External};

/// Who adds up the numbers of a reduction over processes.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Default,
    serde::Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
    clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Reduction {
    /// The trainer, in the order of the members and with halves in `f32`: bit for bit what thread
    /// ranks compute.
    #[default]
    MemberOrder,
    /// The MPI library, in an order of its own, where it has the operation: sums and products of
    /// `f32`, `f64` and integers.
    Library,
}

/// One rank of a world whose ranks are processes.
pub trait ProcessWorld: fmt::Debug + Send + Sync {
    /// Returns which rank this process is.
    fn world(&self) -> World;

    /// Returns the number of compute threads this rank gets: the cores it may use, shared with the
    /// ranks of this node that may use the same ones.
    fn num_threads(&self) -> usize;

    /// Describes the library and its version in one line.
    fn describe(&self) -> String;

    /// Makes a new fabric between all processes, which replaces the one before. All call this.
    ///
    /// # Errors
    ///
    /// Processes that did not come in time.
    fn connect(
        &self,
        timeouts: CommTimeouts,
        reduction: Reduction,
    ) -> Result<Arc<dyn Fabric>, CommError>;

    /// Leaves the world at the end of the program: together with all others if `code` tells that
    /// all went well, otherwise by ending every process with this code.
    fn end(&self, code: u8);
}

/// Describes why this process could not join the world its launcher started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The build has no engine for ranks in several processes.
    #[error(
        "{launcher} started {world_size} processes, but this build cannot join them: ranks in several processes need a build with `--features mpi`; or start one process and set `device_parameters.world_size` for ranks that are threads"
    )]
    NotBuilt {
        /// The launcher.
        launcher: Launcher,
        /// The number of processes.
        world_size: usize,
    },
    /// The launcher does not speak MPI.
    #[error(
        "{launcher} started {world_size} processes, but CPU ranks in several processes meet through MPI, which {launcher} does not start; use `mpirun -n {world_size}` or `srun --mpi=pmix`"
    )]
    NoMpi {
        /// The launcher.
        launcher: Launcher,
        /// The number of processes.
        world_size: usize,
    },
    /// MPI sees another world than the environment tells of.
    #[error(
        "{launcher} started this process as rank {} of {}, but MPI ({library}) sees rank {rank} of {size}: the launcher belongs to another MPI than the one this program was built with, or starts none (`srun` needs `--mpi=pmix`)",
        announced.0, announced.1
    )]
    Size {
        /// The launcher.
        launcher: Launcher,
        /// Rank and number of processes by the environment.
        announced: (usize, usize),
        /// Rank by MPI.
        rank: usize,
        /// Number of processes by MPI.
        size: usize,
        /// The MPI library.
        library: String,
    },
    /// MPI cannot be used from more than one thread.
    #[error("MPI ({library}) was built without support for calls from several threads")]
    Threading {
        /// The MPI library.
        library: String,
    },
    /// Something else started MPI in this process.
    #[error("MPI was already started in this process")]
    Started,
    /// The other processes did not come.
    #[error(transparent)]
    Comm(#[from] CommError),
}

static JOINED: OnceLock<Arc<dyn ProcessWorld>> = OnceLock::new();

/// Joins the world of processes that a launcher started; once per process, later calls return the
/// same world.
///
/// # Communication
///
/// A meeting of all processes.
///
/// # Errors
///
/// See [`JoinError`].
pub fn join(external: &External) -> Result<Arc<dyn ProcessWorld>, JoinError> {
    if let Some(world) = joined() {
        return Ok(world);
    }
    let world = engine::join(external)?;
    Ok(Arc::clone(JOINED.get_or_init(|| world)))
}

/// Returns the world this process has joined.
pub fn joined() -> Option<Arc<dyn ProcessWorld>> {
    JOINED.get().cloned()
}

/// Describes the engine for ranks in several processes that this build has, if it has one.
pub fn process_engine() -> Option<String> {
    engine::describe()
}
