//! Running a body on the ranks of this process, with a [`Fabric`] between all ranks of the world.

use std::fmt::Display;
use std::sync::Arc;

use super::{CommError, CommTimeouts, Fabric, ProcessGroup, ProcessWorld, Reduction, ThreadFabric};
use crate::world::{
    Fault, Outcomes, Panic, StartError, World, check_number, run_ranks, threads_per_rank,
};

/// Tells where the ranks of a world live.
#[derive(Debug, Clone)]
pub enum Ranks {
    /// All of them, this many, are threads of this process.
    Threads(usize),
    /// Each is a process; this one is one of them.
    Process(Arc<dyn ProcessWorld>, Reduction),
}

impl Ranks {
    /// Returns the number of ranks of the world.
    pub fn world_size(&self) -> usize {
        match self {
            Self::Threads(world_size) => *world_size,
            Self::Process(process, _) => process.world().world_size,
        }
    }

    /// Returns the ranks that live in this process.
    pub fn here(&self) -> Vec<World> {
        match self {
            Self::Threads(size) => (0..*size).map(|rank| World::thread(rank, *size)).collect(),
            Self::Process(process, _) => vec![process.world()],
        }
    }

    /// Tells whether rank 0, which speaks for the run, lives in this process.
    pub fn is_main(&self) -> bool {
        match self {
            Self::Threads(_) => true,
            Self::Process(process, _) => process.world().is_main(),
        }
    }

    /// Returns the number of compute threads of each rank.
    pub fn num_threads(&self) -> usize {
        match self {
            Self::Threads(world_size) => threads_per_rank(*world_size),
            Self::Process(process, _) => process.num_threads(),
        }
    }

    fn connect(&self, timeouts: CommTimeouts) -> Result<Arc<dyn Fabric>, CommError> {
        match self {
            Self::Threads(world_size) => Ok(ThreadFabric::new(*world_size, timeouts)),
            Self::Process(process, reduction) => process.connect(timeouts, *reduction),
        }
    }
}

/// Holds what a rank knows about itself and its peers.
#[derive(Debug, Clone)]
pub struct RankContext {
    /// Which rank this is.
    pub world: World,
    /// The connection to the other ranks.
    pub fabric: Arc<dyn Fabric>,
}

impl RankContext {
    /// Returns the number of this rank.
    pub fn rank(&self) -> usize {
        self.world.rank
    }

    /// Returns the group of all ranks.
    pub fn world_group(&self) -> ProcessGroup {
        let group = self.fabric.world_group(self.world.rank);
        group.expect("a launched rank is a member of its world")
    }
}

/// Describes how a rank failed.
#[derive(Debug)]
pub enum RankFault<E> {
    /// It returned an error.
    Error(E),
    /// Communication failed where no error could be returned, such as inside a backward pass.
    Comm(CommError),
    /// It panicked.
    Panic(String),
    /// The ranks of this process could not be started.
    Start(StartError),
}

impl<E: Display> Display for RankFault<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Error(error) => error.fmt(f),
            Self::Comm(error) => error.fmt(f),
            Self::Panic(message) => write!(f, "panicked: {message}"),
            Self::Start(error) => error.fmt(f),
        }
    }
}

/// Describes a run of which at least one rank failed: the first one in full, the others by one line
/// each.
#[derive(Debug)]
pub struct RankFailure<E> {
    /// The rank that failed first.
    pub rank: usize,
    /// How.
    pub fault: Box<RankFault<E>>,
    /// The other ranks that failed, mostly because of the first, in rank order.
    pub others: Vec<(usize, String)>,
}

impl<E: Display> Display for RankFailure<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rank {} failed: {}", self.rank, self.fault)
    }
}

impl<E: std::error::Error + 'static> std::error::Error for RankFailure<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        // The message above holds the fault's own; what comes next is the cause below it.
        match &*self.fault {
            RankFault::Error(error) => error.source(),
            RankFault::Start(error) => std::error::Error::source(error),
            RankFault::Comm(_) | RankFault::Panic(_) => None,
        }
    }
}

/// Runs `body` on the ranks of this process and returns their results in rank order.
///
/// The first rank that returns an error or panics makes every pending and later call of the others
/// fail at once, so all ranks end. A rank that ends well while others still wait for it makes those
/// fail. A panic whose payload is a [`CommError`] counts as that error.
///
/// # Errors
///
/// The first failure in the order of time, with the others; in a process, that of its own rank.
/// Threads that cannot be started are the failure of the first rank that lacks one.
pub fn launch<T, E, F>(
    ranks: &Ranks,
    timeouts: CommTimeouts,
    body: F,
) -> Result<Vec<T>, RankFailure<E>>
where
    T: Send,
    E: Display + Send,
    F: Fn(RankContext) -> Result<T, E> + Sync,
{
    let failed = |rank, fault| RankFailure { rank, fault: Box::new(fault), others: Vec::new() };
    if let Ranks::Threads(world_size) = ranks {
        check_number(*world_size).map_err(|error| failed(0, RankFault::Start(error)))?;
    }
    let here = ranks.here();
    let fabric = ranks.connect(timeouts);
    let fabric = fabric.map_err(|error| failed(here[0].rank, RankFault::Comm(error)))?;
    let run = |world: World| body(RankContext { world, fabric: Arc::clone(&fabric) });
    let ended = |rank: usize, result: &Result<T, Fault<E>>| match result {
        Ok(_) => fabric.leave(rank),
        Err(fault) => fabric.fail(rank, &format!("failed: {}", brief(fault))),
    };
    let outcomes = run_ranks(&here, ranks.num_threads(), run, ended);
    let Outcomes { results, failures } = outcomes.map_err(|error| {
        let rank = if let StartError::Thread { rank, .. } = &error { *rank } else { here[0].rank };
        failed(rank, RankFault::Start(error))
    })?;
    let Some(first) = failures.first().copied() else {
        return Ok(results.into_iter().filter_map(Result::ok).collect());
    };
    let mut others = fabric.last_words();
    let mut fault = None;
    for (world, result) in here.iter().zip(results) {
        match result {
            Err(failed) if world.rank == first => fault = Some(typed(failed)),
            Err(failed) => others.push((world.rank, brief(&failed))),
            Ok(_) => {}
        }
    }
    let fault = Box::new(fault.expect("the first failure is one of the results"));
    Err(RankFailure { rank: first, fault, others })
}

/// Runs `body` on `world_size` ranks that are threads of this process; see [`launch`].
///
/// # Errors
///
/// The first failure in the order of time, with the others.
///
/// # Examples
///
/// ```
/// use burn::tensor::TensorData;
/// use dream_trainer::comm::{CommTimeouts, ReduceOp, launch_threads};
///
/// let sums = launch_threads(4, CommTimeouts::default(), |ctx| {
///     let mine = TensorData::from([ctx.rank() as f32]);
///     ctx.world_group().all_reduce(mine, ReduceOp::Sum)
/// })?;
/// assert_eq!(sums, vec![TensorData::from([6.0_f32]); 4]);
/// # Ok::<(), dream_trainer::comm::RankFailure<dream_trainer::comm::CommError>>(())
/// ```
pub fn launch_threads<T, E, F>(
    world_size: usize,
    timeouts: CommTimeouts,
    body: F,
) -> Result<Vec<T>, RankFailure<E>>
where
    T: Send,
    E: Display + Send,
    F: Fn(RankContext) -> Result<T, E> + Sync,
{
    launch(&Ranks::Threads(world_size), timeouts, body)
}

fn typed<E>(fault: Fault<E>) -> RankFault<E> {
    match fault {
        Fault::Error(error) => RankFault::Error(error),
        Fault::Panic(Panic { payload, location }) => match payload.downcast::<CommError>() {
            Ok(error) => RankFault::Comm(*error),
            Err(payload) => RankFault::Panic(Panic { payload, location }.message()),
        },
    }
}

/// Returns the first line of what went wrong.
fn brief<E: Display>(fault: &Fault<E>) -> String {
    let text = match fault {
        Fault::Error(error) => error.to_string(),
        Fault::Panic(panic) => match panic.payload.downcast_ref::<CommError>() {
            Some(error) => error.to_string(),
            None => format!("panicked: {}", panic.message()),
        },
    };
    text.lines().next().unwrap_or_default().to_owned()
}
