//! What the units of a rank share: the order in which they run, and which communication is under
//! way.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::GatheredBytes;
use super::observed::Observed;
use super::reduce::PendingReduction;
use super::sharing::Pass;
use super::tape::Sink;
use crate::comm::CommError;

/// Issues the gather of a unit ahead of its forward pass.
type Prefetch = Box<dyn Fn() -> Result<(), CommError> + Send>;

/// The units of one rank.
///
/// Units learn their order from the last forward pass: while one runs, the gathers of the next ones
/// are already under way. Every rank runs the same program, so every rank learns the same order and
/// issues the same gathers.
#[derive(Default)]
pub(crate) struct Schedule {
    limit: usize,
    state: Mutex<State>,
    sync: AtomicBool,
    nesting: AtomicUsize,
    /// The unit that stays gathered until its backward pass, plus one.
    kept: AtomicUsize,
    pub(crate) live: Arc<GatheredBytes>,
    pub(crate) gathered: Observed,
    pub(crate) reduced: Observed,
}

#[derive(Default)]
struct State {
    prefetches: BTreeMap<usize, Prefetch>,
    /// Units of the last complete forward pass, in order.
    expected: Vec<usize>,
    /// Units of the forward pass under way.
    seen: Vec<usize>,
    /// The same of the backward passes.
    expected_back: Vec<usize>,
    seen_back: Vec<usize>,
    goes_back: bool,
    /// Units and passes whose backward may be still to come, latest last.
    passes: Vec<(usize, Weak<dyn Pass>)>,
    reductions: VecDeque<(usize, PendingReduction)>,
}

impl State {
    fn latest(&self, unit: usize) -> Option<Arc<dyn Pass>> {
        let mut passes = self.passes.iter().rev().filter(|(other, _)| *other == unit);
        passes.find_map(|(_, pass)| pass.upgrade())
    }
}

impl std::fmt::Debug for Schedule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Schedule").field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl Schedule {
    /// Allows `limit` units ahead to be gathered and as many reductions to be under way.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, sync: AtomicBool::new(true), ..Self::default() }
    }

    /// Makes a schedule for a copy of the units that runs beside them.
    pub(crate) fn beside(other: &Self) -> Self {
        Self { live: Arc::clone(&other.live), ..Self::new(0) }
    }

    pub(crate) fn keep_unit(&self, unit: Option<usize>) {
        self.kept.store(unit.map_or(0, |unit| unit + 1), Ordering::Relaxed);
    }

    pub(crate) fn keeps_unit(&self, unit: usize) -> bool {
        self.kept.load(Ordering::Relaxed) == unit + 1
    }

    pub(crate) fn set_prefetch(&self, unit: usize, prefetch: Prefetch) {
        self.lock().prefetches.insert(unit, prefetch);
    }

    /// Forgets how to gather a unit ahead; whatever it holds of the unit's parameters is let go.
    pub(crate) fn forget(&self, unit: usize) {
        self.lock().prefetches.remove(&unit);
    }

    /// Tells whether backward passes reduce gradients over ranks.
    pub(crate) fn syncs(&self) -> bool {
        self.sync.load(Ordering::Relaxed)
    }

    pub(crate) fn set_sync(&self, sync: bool) {
        self.sync.store(sync, Ordering::Relaxed);
    }

    /// Notes that a unit's forward pass begins and issues the gathers of those that followed it
    /// last time.
    pub(crate) fn forward(&self, unit: usize) -> Result<(), CommError> {
        let mut state = self.lock();
        state.goes_back = false;
        if state.seen == state.expected {
            state.seen.clear();
        }
        state.seen.push(unit);
        let at = state.seen.len();
        if !state.expected.starts_with(&state.seen) {
            return Ok(());
        }
        let next = state.expected[at..].iter().take(self.limit);
        next.filter_map(|unit| state.prefetches.get(unit)).try_for_each(|prefetch| prefetch())
    }

    /// Remembers a pass whose backward is to come.
    pub(crate) fn push(&self, unit: usize, pass: Weak<dyn Pass>) {
        let mut state = self.lock();
        state.passes.retain(|(_, pass)| pass.strong_count() > 0);
        state.passes.push((unit, pass));
    }

    /// Notes that the backward of a unit begins and issues the gathers of those that followed it
    /// last time.
    ///
    /// What is issued depends on the order alone. Whether a pass that was given up is still alive
    /// depends on time, and would differ between ranks.
    pub(crate) fn backward(&self, unit: usize) -> Result<(), CommError> {
        let next: Vec<_> = {
            let mut state = self.lock();
            if !state.goes_back {
                state.goes_back = true;
                state.expected = std::mem::take(&mut state.seen);
                state.expected_back = std::mem::take(&mut state.seen_back);
            }
            state.seen_back.push(unit);
            if !state.expected_back.starts_with(&state.seen_back) {
                return Ok(());
            }
            let next = state.expected_back[state.seen_back.len()..].iter().take(self.limit);
            next.filter_map(|unit| state.latest(*unit)).collect()
        };
        next.iter().try_for_each(|pass| pass.prefetch())
    }

    /// Enters a backward pass within a backward pass, whose reductions are its own.
    pub(crate) fn nested<T>(&self, run: impl FnOnce() -> T) -> T {
        self.nesting.fetch_add(1, Ordering::Relaxed);
        let result = run();
        self.nesting.fetch_sub(1, Ordering::Relaxed);
        result
    }

    /// Adds a reduction that was issued and finishes the oldest ones beyond the limit.
    pub(crate) fn reducing(
        &self,
        reduction: PendingReduction,
        sink: &mut Sink<'_>,
    ) -> Result<(), CommError> {
        let nesting = self.nesting.load(Ordering::Relaxed);
        self.lock().reductions.push_back((nesting, reduction));
        self.finish_reductions(self.limit, sink)
    }

    /// Finishes reductions of the backward pass under way until `left` of them are left.
    pub(crate) fn finish_reductions(
        &self,
        left: usize,
        sink: &mut Sink<'_>,
    ) -> Result<(), CommError> {
        let nesting = self.nesting.load(Ordering::Relaxed);
        loop {
            let oldest = {
                let mut state = self.lock();
                let own = |(level, _): &(usize, PendingReduction)| *level == nesting;
                if state.reductions.iter().filter(|entry| own(entry)).count() <= left {
                    return Ok(());
                }
                let at =
                    state.reductions.iter().position(own).expect("more than none were counted");
                state.reductions.remove(at)
            };
            if let Some((_, reduction)) = oldest {
                reduction.finish(sink)?;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
