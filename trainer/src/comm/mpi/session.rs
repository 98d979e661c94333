//! Joining the MPI world a launcher started, and leaving it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use burn::tensor::{DType, TensorData};
use mpi::environment::{self, Threading};
use xxhash_rust::xxh3::xxh3_64;

use super::super::{CommError, CommTimeouts, Fabric, JoinError, ProcessWorld, Reduction};
use super::fabric::{MpiFabric, meet};
use super::library::{Communicator, Library, Request};
use super::operation::Operation;
use super::state::{Slot, with_library};
use crate::world::env::External;
use crate::world::{Launcher, World};

/// How long processes that ended well wait for the others before they end anyway.
const FAREWELL: Duration = Duration::from_mins(5);
/// Exit codes of runs that ended in order: done, and interrupted.
const ORDERLY: [u8; 2] = [0, 130];
/// How long the processes of a node wait for each other when they start.
const NODE: Duration = Duration::from_mins(1);

/// One process of an MPI world.
struct Session {
    world: World,
    num_threads: usize,
    slot: Slot,
    /// The fabric in use; it answers questions of other ranks until the very end.
    fabric: Mutex<Option<Arc<MpiFabric>>>,
}

/// Starts MPI in this process and compares what it sees with what the environment says.
pub(in super::super) fn join(external: &External) -> Result<Arc<dyn ProcessWorld>, JoinError> {
    let announced = external.world;
    let launcher = announced.launcher;
    if matches!(launcher, Launcher::Torchrun | Launcher::DreamTrain) {
        return Err(JoinError::NoMpi { launcher, world_size: announced.world_size });
    }
    let started = environment::initialize_with_threading(Threading::Serialized);
    let (universe, threading) = started.ok_or(JoinError::Started)?;
    let name = library();
    if threading < Threading::Serialized {
        return Err(JoinError::Threading { library: name });
    }
    let mut library = Library::new(universe);
    let world = Communicator::world();
    let (rank, size) = (world.rank(&mut library), world.size(&mut library));
    if (rank, size) != (announced.rank, announced.world_size) {
        let announced = (announced.rank, announced.world_size);
        return Err(JoinError::Size { launcher, announced, rank, size, library: name });
    }
    let node = world.split_shared(&mut library);
    let (local_rank, local_world_size) = (node.rank(&mut library), node.size(&mut library));
    let slot: Slot = Arc::new(Mutex::new(Some(library)));
    let num_threads = share_of_cores(&slot, &node, local_world_size)?;
    let world = World { rank, world_size: size, local_rank, local_world_size, launcher };
    Ok(Arc::new(Session { world, num_threads, slot, fabric: Mutex::default() }))
}

/// Names the library and its version.
#[expect(clippy::unnecessary_wraps, reason = "a build without an engine has nothing to name")]
pub(in super::super) fn describe() -> Option<String> {
    Some(library())
}

fn library() -> String {
    let version = environment::library_version().unwrap_or_default();
    let line = version.trim_end_matches('\0').lines().next().unwrap_or_default();
    line.split(',').next().unwrap_or_default().trim().to_owned()
}

/// Divides the cores this process may use among the processes of the node that may use the same.
///
/// A launcher that binds processes to cores has divided them already; one that does not leaves every
/// process all of them.
fn share_of_cores(slot: &Slot, node: &Communicator, processes: usize) -> Result<usize, CommError> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mine = xxh3_64(allowed_cores().as_bytes());
    let failed = |message: String| CommError::Library {
        group: "node".to_owned(),
        library: "MPI",
        during: "dividing the cores".to_owned(),
        message,
    };
    meet(slot, |_| node, NODE)?;
    let send = TensorData::new(vec![mine], [1]).into_bytes();
    let mut request = with_library(slot, |library| {
        let operation = Operation::AllGather { count: 1 };
        Request::start(library, node, &operation, Some(send), Some(processes), DType::U64)
    })?
    .map_err(failed)?;
    // All have just met, so nobody is waited for.
    while !with_library(slot, |library| request.test(library))?.map_err(failed)? {
        std::thread::yield_now();
    }
    let all = request.into_received(vec![processes], DType::U64);
    let all = all.as_ref().and_then(|all| all.as_slice::<u64>().ok()).unwrap_or_default();
    let sharing = all.iter().filter(|theirs| **theirs == mine).count().max(1);
    Ok((cores / sharing).max(1))
}

/// Returns the list of cores this process may use, as the kernel writes it; nothing on systems that
/// do not tell.
fn allowed_cores() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    line.unwrap_or_default().trim().to_owned()
}

impl ProcessWorld for Session {
    fn world(&self) -> World {
        self.world
    }

    fn num_threads(&self) -> usize {
        self.num_threads
    }

    fn describe(&self) -> String {
        library()
    }

    fn connect(
        &self,
        timeouts: CommTimeouts,
        reduction: Reduction,
    ) -> Result<Arc<dyn Fabric>, CommError> {
        let mut held = self.fabric.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(previous) = held.take() {
            previous.close();
        }
        let place = (self.world.rank, self.world.world_size);
        let fabric = MpiFabric::connect(&self.slot, place, timeouts, reduction)?;
        *held = Some(Arc::clone(&fabric));
        Ok(fabric)
    }

    fn end(&self, code: u8) {
        if ORDERLY.contains(&code) {
            // Ending the library waits for all processes, so it is left to those that come in time.
            let met = meet(&self.slot, |_| Communicator::world(), FAREWELL);
            if let Some(fabric) = self.fabric.lock().unwrap_or_else(PoisonError::into_inner).take()
            {
                fabric.close();
            }
            if met.is_ok() {
                drop(self.slot.lock().unwrap_or_else(PoisonError::into_inner).take());
                return;
            }
            tracing::warn!("other processes did not end; ending them");
        }
        let mut library = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(library) = library.as_mut() {
            let code = if ORDERLY.contains(&code) { 3 } else { code };
            Communicator::world().abort(library, i32::from(code));
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("world", &self.world).finish_non_exhaustive()
    }
}
