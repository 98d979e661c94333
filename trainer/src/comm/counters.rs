//! [`CommCounters`]: how often a rank used a group, for how many bytes, and how long it waited.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::Collective;

const OPS: usize = Collective::NAMES.len();

/// Holds the uses of one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpCount {
    /// Number of calls.
    pub calls: u64,
    /// Sum of [`nominal_bytes`](super::nominal_bytes).
    pub bytes: u64,
}

/// Counts the calls of one rank in one group; reading and counting need no lock.
#[derive(Debug, Default)]
pub struct CommCounters {
    calls: [AtomicU64; OPS],
    bytes: [AtomicU64; OPS],
    waited_nanos: AtomicU64,
}

impl CommCounters {
    pub(crate) const SEND: usize = OPS - 2;
    pub(crate) const RECV: usize = OPS - 1;

    pub(crate) fn record(&self, op: usize, bytes: usize) {
        self.calls[op].fetch_add(1, Ordering::Relaxed);
        self.bytes[op].fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn record_wait(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.waited_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// Returns how long this rank waited for results: the time communication took that no
    /// computation hid, the lateness of other ranks included.
    pub fn waited(&self) -> Duration {
        Duration::from_nanos(self.waited_nanos.load(Ordering::Relaxed))
    }

    /// Returns the operations used so far, by name.
    pub fn snapshot(&self) -> BTreeMap<&'static str, OpCount> {
        let count = |op: usize| OpCount {
            calls: self.calls[op].load(Ordering::Relaxed),
            bytes: self.bytes[op].load(Ordering::Relaxed),
        };
        let all = Collective::NAMES.iter().enumerate().map(|(op, name)| (*name, count(op)));
        all.filter(|(_, count)| count.calls > 0).collect()
    }

    /// Returns the uses of one operation by its name, such as `all_reduce`; zero for a name that is
    /// not an operation.
    pub fn of(&self, name: &str) -> OpCount {
        self.snapshot().get(name).copied().unwrap_or_default()
    }

    /// Sets everything to zero.
    pub fn reset(&self) {
        for counter in self.calls.iter().chain(&self.bytes).chain([&self.waited_nanos]) {
            counter.store(0, Ordering::Relaxed);
        }
    }
}
