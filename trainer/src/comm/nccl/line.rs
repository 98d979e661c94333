//! One communicator with its stream: operations go in one after the other, and a thread behind watches
//! that they come out.

use std::any::Any;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use super::super::local::rendezvous::Failure;
use super::super::{CommError, CommTimeouts};
use super::library::Communicator;
use super::watch::{Finding, Probe, Queue};
use crate::backend::driver::{Event, Gpu, Staging, Stream};

/// Pause between two looks of the thread behind.
const LOOK: Duration = Duration::from_millis(5);
/// Smallest memory for host data.
const SMALLEST: usize = 4 << 10;

/// Memory that an operation uses.
pub(super) type Kept = Arc<dyn Any + Send + Sync>;

/// What all lines of a fabric have in common.
pub(super) struct Shared {
    pub(super) rank: usize,
    pub(super) gpu: Arc<Gpu>,
    pub(super) timeouts: CommTimeouts,
    lines: Mutex<Vec<Arc<Line>>>,
    failure: Mutex<Option<Failure>>,
    stagings: Mutex<Vec<Staging>>,
    is_closed: AtomicBool,
}

/// A communicator, its stream, and what is under way on it.
pub(super) struct Line {
    pub(super) name: String,
    /// How messages call the members.
    labels: Mutex<Arc<[String]>>,
    communicator: Mutex<Option<Communicator>>,
    stream: Stream,
    failure: Mutex<Option<Failure>>,
    watched: Mutex<Queue<Watched>>,
}

/// An operation under way, and the memory it uses.
struct Watched {
    end: Arc<Event>,
    _kept: Kept,
}

impl Probe for Watched {
    fn is_done(&self) -> Result<bool, String> {
        self.end.is_reached()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Starts the thread behind the rank's; it ends with [`Self::close`].
    pub(super) fn new(rank: usize, gpu: Arc<Gpu>, timeouts: CommTimeouts) -> Arc<Self> {
        let shared = Arc::new(Self {
            rank,
            gpu,
            timeouts,
            lines: Mutex::default(),
            failure: Mutex::default(),
            stagings: Mutex::default(),
            is_closed: AtomicBool::new(false),
        });
        let behind = Arc::clone(&shared);
        let run = move || behind.run_behind();
        thread::Builder::new()
            .name("nccl watch".to_owned())
            .spawn(run)
            .expect("the system can start a thread");
        shared
    }

    pub(super) fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
    }

    /// Adds a line, which fails at once if everything has.
    pub(super) fn add(&self, line: Arc<Line>) -> Arc<Line> {
        if let Some(failure) = lock(&self.failure).clone() {
            line.fail(failure);
        }
        lock(&self.lines).push(Arc::clone(&line));
        line
    }

    /// Makes every line fail; the first failure stays.
    pub(super) fn fail(&self, failure: Failure) {
        let failure = lock(&self.failure).get_or_insert(failure).clone();
        for line in lock(&self.lines).iter() {
            line.fail(failure.clone());
        }
    }

    /// Takes memory for host data.
    pub(super) fn staging(self: &Arc<Self>, bytes: usize) -> Result<Lease, String> {
        let mut free = lock(&self.stagings);
        let fitting = free.iter().enumerate().filter(|(_, staging)| staging.capacity() >= bytes);
        let best = fitting.min_by_key(|(_, staging)| staging.capacity()).map(|(place, _)| place);
        let staging = match best {
            Some(place) => free.swap_remove(place),
            None => Staging::new(bytes.max(SMALLEST).next_power_of_two())?,
        };
        Ok(Lease { staging: Some(staging), shared: Arc::clone(self) })
    }

    fn run_behind(&self) {
        if let Err(error) = self.gpu.enter() {
            tracing::error!(error, "operations of NCCL are not watched");
            return;
        }
        while !self.is_closed.load(Ordering::Relaxed) {
            let lines = lock(&self.lines).clone();
            for line in lines {
                line.look(self.rank, self.timeouts.collective);
            }
            thread::sleep(LOOK);
        }
    }
}

impl Line {
    /// Makes a line of a communicator that is ready. The GPU is entered.
    pub(super) fn new(
        name: &str,
        communicator: Communicator,
        labels: Arc<[String]>,
    ) -> Result<Arc<Self>, String> {
        Ok(Arc::new(Self {
            name: name.to_owned(),
            labels: Mutex::new(labels),
            communicator: Mutex::new(Some(communicator)),
            stream: Stream::new()?,
            failure: Mutex::default(),
            watched: Mutex::default(),
        }))
    }

    pub(super) fn stream(&self) -> &Stream {
        &self.stream
    }

    pub(super) fn labels(&self) -> Arc<[String]> {
        Arc::clone(&lock(&self.labels))
    }

    pub(super) fn rename(&self, labels: Arc<[String]>) {
        *lock(&self.labels) = labels;
    }

    /// Makes every pending and later operation fail; the first failure stays.
    pub(super) fn fail(&self, failure: Failure) {
        lock(&self.failure).get_or_insert(failure);
    }

    /// Returns why the line no longer works, to a rank that was doing `during`.
    pub(super) fn failed(&self, during: &str) -> Option<CommError> {
        lock(&self.failure).as_ref().map(|failure| failure.seen(during, &self.name))
    }

    /// Hands operations to the GPU and returns the point at which they have ended. What fails on the
    /// way may still use the memory in `kept`, which then stays for good.
    ///
    /// The host waits only while NCCL sets up connections, which it does when members first use them.
    pub(super) fn run(
        &self,
        shared: &Shared,
        during: &str,
        kept: &Kept,
        start: impl FnOnce(&mut Communicator, &Stream) -> Result<(), String>,
    ) -> Result<Arc<Event>, CommError> {
        let ran = self.try_run(shared, during, start);
        if ran.is_err() {
            std::mem::forget(Arc::clone(kept));
        }
        ran
    }

    fn try_run(
        &self,
        shared: &Shared,
        during: &str,
        start: impl FnOnce(&mut Communicator, &Stream) -> Result<(), String>,
    ) -> Result<Arc<Event>, CommError> {
        let mut communicator = lock(&self.communicator);
        if let Some(error) = self.failed(during) {
            return Err(error);
        }
        let said = |message: String| self.broken(during, message);
        let gone = || said("the communicator was aborted".to_owned());
        let open = communicator.as_mut().ok_or_else(gone)?;
        shared.gpu.enter().map_err(said)?;
        start(open, &self.stream).map_err(said)?;
        self.settle(open, shared.timeouts.collective, during)?;
        Event::after(&self.stream).map(Arc::new).map_err(said)
    }

    /// Waits until a communicator may be called again.
    fn settle(
        &self,
        communicator: &Communicator,
        limit: Duration,
        during: &str,
    ) -> Result<(), CommError> {
        let begun = Instant::now();
        let mut pause = Pause::default();
        while !communicator.is_ready().map_err(|message| self.broken(during, message))? {
            if let Some(error) = self.failed(during) {
                return Err(error);
            }
            if begun.elapsed() >= limit {
                let failure = Failure::Error(self.late(0, during, limit));
                self.fail(failure.clone());
                return Err(failure.seen(during, &self.name));
            }
            pause.take();
        }
        Ok(())
    }

    /// Watches an operation and keeps its memory until it has ended.
    pub(super) fn watch(&self, end: &Arc<Event>, kept: Kept, sequence: u64, call: String) {
        let watched = Watched { end: Arc::clone(end), _kept: kept };
        lock(&self.watched).push(watched, sequence, call, Instant::now());
    }

    /// Waits on the host until a point is reached; the thread behind ends waits that take too long.
    pub(super) fn await_end(&self, end: &Event, during: &str) -> Result<(), CommError> {
        let mut pause = Pause::default();
        loop {
            match end.is_reached() {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(message) => return Err(self.broken(during, message)),
            }
            if let Some(error) = self.failed(during) {
                return Err(error);
            }
            pause.take();
        }
    }

    /// Makes the line fail because the library did, and returns the error.
    fn broken(&self, during: &str, message: String) -> CommError {
        let (group, during_text) = (self.name.clone(), during.to_owned());
        let error = CommError::Library { group, library: "NCCL", during: during_text, message };
        let failure = lock(&self.failure).get_or_insert(Failure::Error(error)).clone();
        failure.seen(during, &self.name)
    }

    fn late(&self, sequence: u64, call: &str, waited: Duration) -> CommError {
        let missing =
            vec![format!("members that NCCL does not name, of {}", self.labels().join(", "))];
        let (group, call) = (self.name.clone(), call.to_owned());
        CommError::Timeout { group, sequence, call, waited, missing }
    }

    /// Looks for what went wrong behind the host's back, and ends a communicator that failed.
    fn look(&self, rank: usize, limit: Duration) {
        let finding = lock(&self.watched).look(Instant::now(), limit);
        let error = match finding {
            Finding::Fine => self.asynchronous_error(),
            Finding::Late(sequence, call) => Some(self.late(sequence, &call, limit)),
            Finding::Failed(sequence, call, message) => Some(CommError::Library {
                group: self.name.clone(),
                library: "NCCL",
                during: format!("call {sequence}, {call},"),
                message,
            }),
        };
        let mut failure = lock(&self.failure);
        if let (Some(error), None) = (&error, &*failure) {
            tracing::error!(rank, group = self.name, %error, "communication failed");
            *failure = Some(Failure::Error(error.clone()));
        }
        let has_failed = failure.is_some();
        drop(failure);
        if has_failed && let Some(mut communicator) = self.at_rest() {
            if let Some(communicator) = communicator.take() {
                communicator.abort();
            }
            // What was under way ends with the communicator; its memory is not given back to be
            // written by what may still run.
            std::mem::forget(std::mem::take(&mut *lock(&self.watched)));
        }
    }

    fn asynchronous_error(&self) -> Option<CommError> {
        let communicator = self.at_rest()?;
        let message = communicator.as_ref()?.is_ready().err()?;
        let (group, during) = (self.name.clone(), "what was under way".to_owned());
        Some(CommError::Library { group, library: "NCCL", during, message })
    }

    /// Returns the communicator, unless the rank is using it.
    fn at_rest(&self) -> Option<MutexGuard<'_, Option<Communicator>>> {
        match self.communicator.try_lock() {
            Ok(communicator) => Some(communicator),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Tells whether nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        lock(&self.watched).is_empty()
    }
}

/// Memory for host data that goes back to the others when nobody uses it any more.
pub(super) struct Lease {
    staging: Option<Staging>,
    shared: Arc<Shared>,
}

impl std::ops::Deref for Lease {
    type Target = Staging;

    fn deref(&self) -> &Staging {
        self.staging.as_ref().expect("a lease holds its memory until it is dropped")
    }
}

impl std::ops::DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Staging {
        self.staging.as_mut().expect("a lease holds its memory until it is dropped")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(staging) = self.staging.take() {
            lock(&self.shared.stagings).push(staging);
        }
    }
}

/// Longer and longer pauses between two looks.
#[derive(Debug, Default)]
pub(super) struct Pause(u32);

impl Pause {
    const SPINS: u32 = 2000;

    pub(super) fn take(&mut self) {
        self.0 = self.0.saturating_add(1);
        if self.0 < Self::SPINS {
            thread::yield_now();
        } else {
            thread::sleep(Duration::from_micros(50));
        }
    }
}
