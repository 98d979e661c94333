//! Joining a world of GPUs, one process each, and leaving it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use burn::tensor::TensorData;

use super::super::{CommError, CommTimeouts, Fabric, JoinError, ProcessWorld, Reduction, engine};
use super::bootstrap::{Meeting, OLDEST, dotted, refused_sharing};
use super::fabric::{NcclFabric, Parent, until_ready};
use super::library::{Communicator, ID_BYTES, Identifier, announce};
use crate::backend::driver::Gpu;
use crate::world::env::{self, External};
use crate::world::{GpuSoftware, World, threads_per_rank, visible_gpus};

/// How long processes wait for each other when they start.
const JOIN: Duration = Duration::from_mins(5);
/// How long processes that ended well wait for what is under way and for the others.
const FAREWELL: Duration = Duration::from_mins(1);
/// Exit codes of runs that ended in order: done, and interrupted.
const ORDERLY: [u8; 2] = [0, 130];

/// One process of a world of GPUs.
struct Session {
    world: World,
    version: u32,
    gpu: Arc<Gpu>,
    parent: Parent,
    /// The world over which the identifier came; it must be left as well.
    mpi: Option<Arc<dyn ProcessWorld>>,
    fabric: Mutex<Option<Arc<NcclFabric>>>,
}

/// Finds the other processes and makes the communicator of all.
pub(in super::super) fn join(external: &External) -> Result<Arc<dyn ProcessWorld>, JoinError> {
    let variables = env::variables();
    let meeting = Meeting::new(external, &variables, cfg!(feature = "mpi"))?;
    if let Meeting::Address(address) = &meeting {
        announce(address);
    }
    let software = GpuSoftware::find();
    let missing = |what: &'static str, remedy: &'static str| JoinError::Software { what, remedy };
    if !software.driver {
        return Err(missing("libcuda", "install the NVIDIA driver"));
    }
    let version = software.nccl.ok_or_else(|| {
        missing("libnccl", "install NCCL 2.18 or later and put its folder on LD_LIBRARY_PATH")
    })?;
    if version < OLDEST {
        let found = dotted(version);
        return Err(JoinError::OldNccl { found });
    }
    let world = external.world;
    let gpus = visible_gpus();
    if gpus == 0 {
        return Err(JoinError::NoGpu { rank: world.rank });
    }
    let said = |message: String| {
        JoinError::Comm(CommError::Library {
            group: "world".to_owned(),
            library: "NCCL",
            during: "joining it".to_owned(),
            message,
        })
    };
    let (mpi, identifier) = match meeting {
        Meeting::Mpi => {
            let (mpi, identifier) = over_mpi(external)?;
            (Some(mpi), identifier)
        }
        Meeting::Address(_) => (None, Identifier::new().map_err(said)?),
    };
    let gpu = Gpu::open(world.local_rank % gpus).map_err(said)?;
    gpu.enter().map_err(said)?;
    let joined = Communicator::join(identifier, world.world_size, world.rank, version)
        .map_err(said)
        .and_then(|communicator| {
            until_ready(&communicator, "world", JOIN)?;
            Ok(communicator)
        });
    let communicator = joined
        .map_err(|error| refused_sharing(&world, gpus, version, &variables).unwrap_or(error))?;
    let parent = Arc::new(Mutex::new(communicator));
    Ok(Arc::new(Session { world, version, gpu, parent, mpi, fabric: Mutex::default() }))
}

/// Brings the identifier that rank 0 makes to all ranks over MPI.
fn over_mpi(external: &External) -> Result<(Arc<dyn ProcessWorld>, Identifier), JoinError> {
    let mpi = engine::join(external)?;
    let timeouts = CommTimeouts::uniform(JOIN);
    let fabric = mpi.connect(timeouts, Reduction::MemberOrder)?;
    let rank = external.world.rank;
    let said = |message: String| CommError::Library {
        group: "world".to_owned(),
        library: "NCCL",
        during: "naming the world".to_owned(),
        message,
    };
    let bytes = match rank {
        0 => Identifier::new().map_err(said)?.to_bytes(),
        _ => vec![0; ID_BYTES],
    };
    let data = TensorData::new(bytes, [ID_BYTES]);
    let named = fabric.world_group(rank)?.broadcast(data, 0)?;
    let identifier = Identifier::from_bytes(named.as_bytes());
    let identifier = identifier.ok_or_else(|| said("no identifier came".to_owned()))?;
    Ok((mpi, identifier))
}

impl ProcessWorld for Session {
    fn world(&self) -> World {
        self.world
    }

    fn num_threads(&self) -> usize {
        let shared = || threads_per_rank(self.world.local_world_size);
        self.mpi.as_ref().map_or_else(shared, |mpi| mpi.num_threads())
    }

    fn describe(&self) -> String {
        format!("NCCL {}", dotted(self.version))
    }

    fn connect(&self, timeouts: CommTimeouts, _: Reduction) -> Result<Arc<dyn Fabric>, CommError> {
        let mut held = self.fabric.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(previous) = held.take() {
            previous.close();
        }
        let place = (self.world.rank, self.world.world_size);
        let fabric = NcclFabric::connect(&self.parent, &self.gpu, place, timeouts)?;
        *held = Some(Arc::clone(&fabric));
        Ok(fabric)
    }

    fn end(&self, code: u8) {
        let fabric = self.fabric.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Others may still need what this process has under way, and its memory.
        if let Some(fabric) = fabric.filter(|_| ORDERLY.contains(&code))
            && fabric.drain(FAREWELL)
        {
            let met = fabric.world_group(self.world.rank).and_then(|world| world.barrier());
            if let Err(error) = met {
                tracing::warn!(%error, "other processes did not end");
            }
        }
        if let Some(mpi) = &self.mpi {
            mpi.end(code);
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("world", &self.world).finish_non_exhaustive()
    }
}
