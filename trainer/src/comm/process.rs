//! Worlds of processes: joining the one an outside launcher started.

use std::fmt;
use std::sync::{Arc, OnceLock};

use super::{CommError, CommTimeouts, Fabric, engine};
use crate::world::{Launcher, World, env::External, env::size_variable};

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

/// What joins ranks that are processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// MPI, for ranks that compute on processors.
    Mpi,
    /// NCCL, for ranks that compute on NVIDIA's GPUs.
    Nccl,
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
        "`{}` is {world_size}, so {launcher} started {world_size} processes, but this build cannot join them: ranks in several processes need a build with `--features mpi`; or start one process and set `device_parameters.world_size` for ranks that are threads, with `DREAM_TRAIN_LAUNCHER=none` if the variable is left over",
        size_variable(*launcher)
    )]
    NotBuilt {
        /// The launcher.
        launcher: Launcher,
        /// The number of processes.
        world_size: usize,
    },
    /// The launcher does not speak MPI.
    #[error(
        "`{}` is {world_size}, so {launcher} started {world_size} processes, but CPU ranks in several processes meet through MPI, which {launcher} does not start; use `mpirun -n {world_size}` or `srun --mpi=pmix`, or `DREAM_TRAIN_LAUNCHER=none` if the variable is left over",
        size_variable(*launcher)
    )]
    NoMpi {
        /// The launcher.
        launcher: Launcher,
        /// The number of processes.
        world_size: usize,
    },
    /// MPI sees another world than the environment tells of.
    #[error(
        "{launcher} started this process as rank {} of {}, but MPI ({library}) sees rank {rank} of {size}: the launcher belongs to another MPI than the one this program was built with, or starts none (`srun` needs `--mpi=pmix`), or `{}` is left over (`DREAM_TRAIN_LAUNCHER=none` ignores it)",
        announced.0, announced.1, size_variable(*launcher)
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
    /// GPU ranks do not know where they meet.
    #[error(
        "{launcher} started this process, but {} not set, so GPU ranks do not know where to meet; export both on every process (an address of rank 0's machine and a free port of it), or build with `--features mpi` and start with `mpirun` or `srun --mpi=pmix`",
        named(missing)
    )]
    NoMeeting {
        /// The launcher.
        launcher: Launcher,
        /// The variables that are not set.
        missing: Vec<&'static str>,
    },
    /// There is no port beside the one that the launcher uses.
    #[error("`MASTER_PORT` is {port}, which `torchrun` uses itself, and there is no port after it")]
    NoPort {
        /// The port.
        port: u16,
    },
    /// Software of NVIDIA's is missing.
    #[error(
        "GPU ranks in several processes need {what}, which this machine does not have; {remedy}, or set `device_parameters.ranks = \"threads\"`; `dream-train doctor` shows what is there"
    )]
    Software {
        /// What is missing.
        what: &'static str,
        /// What helps.
        remedy: &'static str,
    },
    /// NCCL is too old.
    #[error("this machine has NCCL {found}, but GPU ranks in several processes need 2.18 or later")]
    OldNccl {
        /// Its version.
        found: String,
    },
    /// There is no GPU.
    #[error("rank {rank} finds no GPU on this machine; `dream-train doctor` says what is missing")]
    NoGpu {
        /// The rank.
        rank: usize,
    },
    /// Ranks would share a GPU.
    #[error(
        "this machine shows {ranks} ranks {gpus} GPUs: {problem}; `device_parameters.ranks = \"threads\"` runs them in one process instead"
    )]
    SharedGpu {
        /// Ranks of this machine.
        ranks: usize,
        /// GPUs that a rank sees.
        gpus: usize,
        /// What is in the way.
        problem: String,
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
pub fn join(external: &External, engine: Engine) -> Result<Arc<dyn ProcessWorld>, JoinError> {
    if let Some(world) = joined() {
        return Ok(world);
    }
    let world = match engine {
        Engine::Mpi => engine::join(external)?,
        Engine::Nccl => join_gpus(external)?,
    };
    Ok(Arc::clone(JOINED.get_or_init(|| world)))
}

#[cfg(feature = "cuda")]
fn join_gpus(external: &External) -> Result<Arc<dyn ProcessWorld>, JoinError> {
    super::nccl::join(external)
}

#[cfg(not(feature = "cuda"))]
fn join_gpus(external: &External) -> Result<Arc<dyn ProcessWorld>, JoinError> {
    let (launcher, world_size) = (external.world.launcher, external.world.world_size);
    Err(JoinError::NotBuilt { launcher, world_size })
}

/// Returns the world this process has joined.
pub fn joined() -> Option<Arc<dyn ProcessWorld>> {
    JOINED.get().cloned()
}

/// Describes the engine for CPU ranks in several processes that this build has, if it has one.
pub fn process_engine() -> Option<String> {
    engine::describe()
}

/// Names variables in a sentence.
fn named(variables: &[&str]) -> String {
    let verb = if variables.len() == 1 { "is" } else { "are" };
    let names: Vec<String> = variables.iter().map(|name| format!("`{name}`")).collect();
    format!("{} {verb}", names.join(" and "))
}
