//! What a rank has under way in all its groups, and who may touch it when.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::super::local::rendezvous::Failure;
use super::super::{CommError, CommTimeouts};
use super::control::{Answer, Control, Notice};
use super::group::Group;
use super::library::Library;

/// How long a rank that gives up waits for the others to say how far they are.
const ANSWER: Duration = Duration::from_secs(2);
/// Pause of the thread that carries operations forward, while there are some.
const BUSY: Duration = Duration::from_micros(100);
/// Its pause otherwise; a question or a notice may come at any time.
const IDLE: Duration = Duration::from_millis(20);

/// The library, until it has ended.
pub(super) type Slot = Arc<Mutex<Option<Library>>>;

/// Everything that is under way.
pub(super) struct State {
    pub(super) rank: usize,
    pub(super) control: Control,
    pub(super) groups: Vec<Group>,
    /// Why every group fails.
    pub(super) failure: Option<Failure>,
    /// The rank that this one's failure follows from.
    pub(super) cause: Option<usize>,
    /// Whether this rank failed by itself.
    pub(super) is_own: bool,
    pub(super) has_ended: bool,
}

/// What the rank's thread and the one behind it share.
pub(super) struct Shared {
    pub(super) timeouts: CommTimeouts,
    library: Slot,
    state: Mutex<State>,
    woken: Condvar,
    waiting: AtomicUsize,
    is_closed: AtomicBool,
}

impl State {
    /// Carries everything forward; returns true if something is under way.
    pub(super) fn advance(&mut self, library: &mut Library) -> bool {
        while let Some((from, notice)) = self.control.receive(library) {
            self.heed(library, from, notice);
        }
        let mut is_busy = false;
        for group in &mut self.groups {
            is_busy |= group.advance(library);
        }
        is_busy
    }

    fn heed(&mut self, library: &mut Library, from: usize, notice: Notice) {
        match notice {
            Notice::Failed { reason } => {
                self.cause.get_or_insert(from);
                self.control.claims.push(from);
                self.control.last_words.insert(from, reason.clone());
                self.failure.get_or_insert(Failure::Peer { rank: from, reason });
            }
            Notice::Ended { reason } => {
                self.control.last_words.insert(from, reason);
            }
            Notice::GroupFailed { group, reason } => {
                self.cause.get_or_insert(from);
                if let Some(group) = self.groups.get_mut(group) {
                    group.failure.get_or_insert(Failure::Peer { rank: from, reason });
                }
            }
            Notice::Ask { question, group } => {
                let issued = self.groups.get(group).map_or(0, Group::issued);
                let answer = Notice::Answer { question, issued, has_ended: self.has_ended };
                self.control.send(library, from, &answer);
            }
            Notice::Answer { question, issued, has_ended } => {
                self.control.answered(from, question, Answer { issued, has_ended });
            }
        }
    }

    /// Returns why a group cannot go on, to a rank that was doing `during`.
    pub(super) fn failed(&self, group: usize, during: &str) -> Option<CommError> {
        let group = &self.groups[group];
        let failure = group.failure.as_ref().or(self.failure.as_ref())?;
        Some(failure.seen(during, &group.name))
    }

    /// Makes a group fail here and at its other members.
    pub(super) fn fail_group(&mut self, library: &mut Library, group: usize, error: &CommError) {
        let reason = format!("failed: {error}");
        let failed = &mut self.groups[group];
        failed.failure.get_or_insert(Failure::Error(error.clone()));
        for to in failed.members.clone().into_iter().filter(|member| *member != self.rank) {
            let reason = reason.clone();
            self.control.send(library, to, &Notice::GroupFailed { group, reason });
        }
    }
}

impl Shared {
    pub(super) fn new(library: Slot, timeouts: CommTimeouts, state: State) -> Arc<Self> {
        Arc::new(Self {
            timeouts,
            library,
            state: Mutex::new(state),
            woken: Condvar::new(),
            waiting: AtomicUsize::new(0),
            is_closed: AtomicBool::new(false),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `f` alone with the state and the library.
    ///
    /// # Errors
    ///
    /// The library has ended.
    pub(super) fn with<T>(
        &self,
        f: impl FnOnce(&mut State, &mut Library) -> T,
    ) -> Result<T, CommError> {
        let mut state = self.lock();
        with_library(&self.library, |library| f(&mut state, library))
    }

    /// Wakes the thread behind the rank's.
    pub(super) fn wake(&self) {
        self.woken.notify_all();
    }

    /// Asks `ready` again and again, with everything carried forward in between, until it has an
    /// answer or `limit` has passed since `since`, which `ready` may move.
    pub(super) fn wait_for<T>(
        &self,
        limit: Duration,
        mut ready: impl FnMut(&mut State, &mut Instant) -> Option<T>,
    ) -> Result<Option<T>, CommError> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let mut since = Instant::now();
        let mut pause = Pause::default();
        let found = loop {
            let found = self.with(|state, library| {
                state.advance(library);
                ready(state, &mut since)
            });
            match found {
                Ok(None) if since.elapsed() < limit => pause.take(),
                other => break other,
            }
        };
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        self.wake();
        found
    }

    /// Finds out how far the other members of a group are: nothing for those that do not answer.
    pub(super) fn inquire(&self, group: usize) -> Result<Vec<(usize, Option<Answer>)>, CommError> {
        let others = self.with(|state, library| {
            let members = state.groups[group].members.clone().into_iter();
            let others: Vec<usize> = members.filter(|member| *member != state.rank).collect();
            state.control.ask(library, others.iter().copied(), group);
            others
        })?;
        let count = others.len();
        self.wait_for(ANSWER, |state, _| (state.control.answers.len() == count).then_some(()))?;
        self.with(|state, _| {
            let answer = |rank: usize| (rank, state.control.answers.get(&rank).copied());
            others.into_iter().map(answer).collect()
        })
    }

    /// Carries operations forward while the rank computes, until [`Self::close`].
    pub(super) fn run_behind(&self) {
        while !self.is_closed.load(Ordering::Relaxed) {
            // A rank that waits does it itself, and sooner.
            let is_waiting = self.waiting.load(Ordering::Relaxed) > 0;
            let advanced = if is_waiting { Ok(false) } else { self.with(State::advance) };
            match advanced {
                Ok(true) => thread::sleep(BUSY),
                Ok(false) => {
                    let state = self.lock();
                    drop(self.woken.wait_timeout(state, IDLE));
                }
                Err(_) => return,
            }
        }
    }

    pub(super) fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        self.wake();
    }
}

/// Runs `f` alone with the library.
///
/// # Errors
///
/// It has ended.
pub(super) fn with_library<T>(
    slot: &Slot,
    f: impl FnOnce(&mut Library) -> T,
) -> Result<T, CommError> {
    let mut library = slot.lock().unwrap_or_else(PoisonError::into_inner);
    library.as_mut().map(f).ok_or_else(|| CommError::Library {
        group: "world".to_owned(),
        library: "MPI",
        during: "a call".to_owned(),
        message: "it has already ended in this process".to_owned(),
    })
}

/// Longer and longer pauses between two looks.
#[derive(Debug, Default)]
pub(super) struct Pause(u32);

impl Pause {
    /// Looks that follow each other at once, and looks between which others may run.
    const SPINS: u32 = 50;
    const YIELDS: u32 = 2000;

    pub(super) fn take(&mut self) {
        self.0 = self.0.saturating_add(1);
        if self.0 < Self::SPINS {
            std::hint::spin_loop();
        } else if self.0 < Self::YIELDS {
            thread::yield_now();
        } else {
            thread::sleep(BUSY);
        }
    }
}
