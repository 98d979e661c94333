//! Running ranks: one named thread per rank of this process, each with its share of the cores.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Mutex, Once, PoisonError};
use std::thread;

use rayon::{ThreadPool, ThreadPoolBuildError};

use super::World;
use super::gate::Gate;

/// Prefix of the names of rank threads and of their pools' workers: `rank 3`, `rank 3 worker 1`.
pub const RANK_THREAD_PREFIX: &str = "rank ";

/// Deep module trees recurse in the backward pass; the memory is only reserved, not used.
const STACK_BYTES: usize = 32 << 20;

/// Describes how a rank failed.
#[derive(Debug)]
pub enum Fault<E> {
    /// The rank returned an error.
    Error(E),
    /// The rank panicked.
    Panic(Panic),
}

/// Holds what a panicking rank threw, and where.
pub struct Panic {
    /// The payload, for a typed look at it.
    pub payload: Box<dyn Any + Send>,
    /// File, line and column, if the panic started on the rank's own thread.
    pub location: Option<String>,
}

impl Panic {
    /// Returns the text of the panic and its place.
    pub fn message(&self) -> String {
        let text = self.payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| self.payload.downcast_ref::<String>().map(String::as_str));
        let text = text.unwrap_or("a panic without text");
        match &self.location {
            Some(location) => format!("{text} (at {location})"),
            None => text.to_owned(),
        }
    }
}

impl std::fmt::Debug for Panic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Panic").field(&self.message()).finish()
    }
}

/// Holds how each rank ended.
#[derive(Debug)]
pub struct Outcomes<T, E> {
    /// One result per rank of this process, in the order of the ranks.
    pub results: Vec<Result<T, Fault<E>>>,
    /// The ranks that failed, in the order of time.
    pub failures: Vec<usize>,
}

/// Why the ranks of this process could not all be started. None of them has run then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// More ranks than any machine has threads.
    #[error(
        "{num_ranks} ranks as threads of one process are more than the {most} that are possible"
    )]
    TooMany {
        /// Ranks of this process.
        num_ranks: usize,
        /// The most there may be.
        most: usize,
    },
    /// The system gave no thread.
    #[error(
        "cannot start {what} of rank {rank}, one of {num_ranks} ranks of this process with {num_threads} compute threads each"
    )]
    Thread {
        /// Which of the rank's threads.
        what: &'static str,
        /// The rank.
        rank: usize,
        /// Ranks of this process.
        num_ranks: usize,
        /// Compute threads of each.
        num_threads: usize,
        /// What the system said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Most ranks of a world: more than any machine has, and more threads than any system allows.
pub const MOST_RANKS: usize = 1 << 20;

/// Returns the number of compute threads of each of `world_size` ranks on this machine: an equal
/// share of the cores, at least 1.
pub fn threads_per_rank(world_size: usize) -> usize {
    let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (cores / world_size.max(1)).max(1)
}

/// Returns the rank that the current thread, by its name, belongs to.
pub fn rank_of_thread() -> Option<usize> {
    let thread = thread::current();
    thread.name()?.strip_prefix(RANK_THREAD_PREFIX)?.split_whitespace().next()?.parse().ok()
}

/// Runs `body` on `world_size` ranks that are threads of this process, each with
/// [`threads_per_rank`] compute threads; see [`run_ranks`].
///
/// # Errors
///
/// As [`run_ranks`].
pub fn run_rank_threads<T, E, F, N>(
    world_size: usize,
    body: F,
    ended: N,
) -> Result<Outcomes<T, E>, StartError>
where
    T: Send,
    E: Send,
    F: Fn(World) -> Result<T, E> + Sync,
    N: Fn(usize, &Result<T, Fault<E>>) + Sync,
{
    check_number(world_size)?;
    let ranks: Vec<World> = (0..world_size).map(|rank| World::thread(rank, world_size)).collect();
    run_ranks(&ranks, threads_per_rank(world_size), body, ended)
}

/// Checks that a process could have so many ranks at all, before a list of them is made.
pub(crate) fn check_number(num_ranks: usize) -> Result<(), StartError> {
    if num_ranks <= MOST_RANKS {
        return Ok(());
    }
    Err(StartError::TooMany { num_ranks, most: MOST_RANKS })
}

/// Runs `body` once per rank of this process, each on its own named thread that leads its own pool
/// of `num_threads` threads.
///
/// Tensor kernels of a rank run in its own pool, so a rank that waits blocks nobody else. `ended`
/// is called on the thread of a rank as soon as it ended, before any other rank can learn of it,
/// and is where peers are told. Panics are caught and print nothing. Returns when every rank has
/// ended.
///
/// # Errors
///
/// A thread that the system does not give; no `body` has run then, since the ranks wait for each
/// other to be there.
pub fn run_ranks<T, E, F, N>(
    ranks: &[World],
    num_threads: usize,
    body: F,
    ended: N,
) -> Result<Outcomes<T, E>, StartError>
where
    T: Send,
    E: Send,
    F: Fn(World) -> Result<T, E> + Sync,
    N: Fn(usize, &Result<T, Fault<E>>) + Sync,
{
    install_quiet_hook();
    let failures = Mutex::new(Vec::new());
    let gate = Gate::new(ranks.len(), num_threads);
    let run = |world: World| {
        let rank = world.rank;
        let pool = gate.pass(rank, pool(rank, num_threads))?;
        let result = guarded(|| pool.install(|| body(world)));
        if result.is_err() {
            failures.lock().unwrap_or_else(PoisonError::into_inner).push(rank);
        }
        ended(rank, &result);
        Some(result)
    };
    let results: Vec<_> = thread::scope(|scope| {
        let run = &run;
        let spawn = |world: &World| {
            let world = *world;
            let started = thread::Builder::new()
                .name(format!("{RANK_THREAD_PREFIX}{}", world.rank))
                .stack_size(STACK_BYTES)
                .spawn_scoped(scope, move || run(world));
            started.map_err(|error| gate.fail("the thread", world.rank, error.into())).ok()
        };
        // The first thread that is not there ends the starting; those before it wait at the gate.
        let threads: Vec<_> = ranks.iter().map_while(spawn).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| {
            thread.join().expect("everything a rank runs is guarded")
        };
        threads.into_iter().filter_map(join).collect()
    });
    if let Some(failure) = gate.into_failure() {
        return Err(failure);
    }
    let failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(Outcomes { results, failures })
}

/// Makes the current thread the first worker of a pool of its own.
fn pool(rank: usize, num_threads: usize) -> Result<ThreadPool, ThreadPoolBuildError> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(num_threads)
        .thread_name(move |worker| format!("{RANK_THREAD_PREFIX}{rank} worker {worker}"))
        .stack_size(STACK_BYTES)
        .use_current_thread()
        .build()
}

thread_local! {
    static PANIC_LOCATION: RefCell<Option<String>> = const { RefCell::new(None) };
}

fn guarded<T, E>(body: impl FnOnce() -> Result<T, E>) -> Result<T, Fault<E>> {
    match panic::catch_unwind(AssertUnwindSafe(body)) {
        Ok(result) => result.map_err(Fault::Error),
        Err(payload) => Err(Fault::Panic(Panic { payload, location: PANIC_LOCATION.take() })),
    }
}

/// Makes panics of rank threads silent, once per process: the launcher reports them with the rank;
/// others keep the old hook.
fn install_quiet_hook() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let current = thread::current();
            if current.name().is_some_and(|name| name.starts_with(RANK_THREAD_PREFIX)) {
                PANIC_LOCATION.set(info.location().map(ToString::to_string));
            } else {
                previous(info);
            }
        }));
    });
}
