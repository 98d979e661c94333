//! Where the members of one group meet: calls by sequence number, failures, and tensors from member
//! to member.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use burn::tensor::TensorData;

use super::super::{Call, CommError, CommTimeouts, Side};
use super::Input;
use super::calls::{Calls, Met};
use super::mailbox::{Channel, Mailbox};

/// Why a group no longer works.
#[derive(Debug, Clone)]
pub(crate) enum Failure {
    /// Its members disagreed, or one was late.
    Error(CommError),
    /// A rank, of this group or not, failed or left.
    Peer { rank: usize, reason: String },
}

impl Failure {
    /// Returns the error for a rank that was doing `during`.
    pub(crate) fn seen(&self, during: &str, group: &str) -> CommError {
        match self {
            Self::Error(error) => error.clone(),
            Self::Peer { rank, reason } => CommError::PeerFailed {
                rank: *rank,
                reason: reason.clone(),
                during: format!("{during} in group `{group}`"),
            },
        }
    }
}

#[derive(Debug)]
struct State {
    calls: Calls,
    /// Why a member will make no more calls.
    left: Vec<Option<String>>,
    failure: Option<Failure>,
    mailbox: Mailbox,
}

/// Joins the members of one group.
#[derive(Debug)]
pub(crate) struct Rendezvous {
    pub(crate) name: String,
    pub(crate) members: Vec<usize>,
    pub(crate) labels: Arc<[String]>,
    timeouts: CommTimeouts,
    state: Mutex<State>,
    changed: Condvar,
}

impl Rendezvous {
    pub(crate) fn new(
        name: String,
        members: Vec<usize>,
        labels: Arc<[String]>,
        timeouts: CommTimeouts,
    ) -> Self {
        let n = members.len();
        let state = State {
            calls: Calls::new(n),
            left: vec![None; n],
            failure: None,
            mailbox: Mailbox::default(),
        };
        Self { name, members, labels, timeouts, state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a member's next call and returns its sequence number.
    pub(crate) fn issue(
        &self,
        member: usize,
        call: Call,
        input: Option<Input>,
    ) -> Result<u64, CommError> {
        let mut state = self.lock();
        let sequence = state.calls.issued(member);
        if let Some(failure) = &state.failure {
            return Err(failure.seen(&numbered(sequence, &call), &self.name));
        }
        let slot = state.calls.next(member);
        if let Some(other) = slot.conflict(&call) {
            let error = self.mismatch(sequence, other, (member, &call));
            return Err(self.fail_locked(&mut state, Failure::Error(error), ""));
        }
        slot.enter(member, call, input);
        if slot.is_complete() {
            self.changed.notify_all();
            return Ok(sequence);
        }
        let slot = state.calls.slot(sequence);
        let gone = slot.absent().find_map(|m| Some((m, state.left[m].clone()?)));
        if let Some((absent, reason)) = gone {
            let text = numbered(sequence, &slot.text(member));
            let failure = Failure::Peer { rank: self.members[absent], reason };
            return Err(self.fail_locked(&mut state, failure, &text));
        }
        Ok(sequence)
    }

    /// Waits for the end of a call and returns it with the results; carries out open work
    /// meanwhile.
    pub(crate) fn wait(&self, member: usize, sequence: u64) -> Result<Met, CommError> {
        let start = Instant::now();
        let limit = self.timeouts.collective;
        let mut state = self.lock();
        loop {
            if let Some(met) = state.calls.completed(sequence) {
                state.calls.release(sequence);
                return Ok(met);
            }
            let slot = state.calls.slot(sequence);
            if let Some(failure) = &state.failure {
                return Err(failure.seen(&numbered(sequence, &slot.text(member)), &self.name));
            }
            // Once all have come nobody is late: what is left is the last tasks of peers, which
            // take the time they take.
            let left =
                if slot.is_complete() { Some(limit) } else { limit.checked_sub(start.elapsed()) };
            if let Some((open, job)) = state.calls.open_job(sequence) {
                drop(state);
                let finished = job.help();
                state = self.lock();
                if finished {
                    state.calls.finish(open);
                    self.changed.notify_all();
                }
            } else if let Some(left) = left {
                state = self.sleep(state, left);
            } else {
                let error = self.late(&state, member, sequence, limit);
                return Err(self.fail_locked(&mut state, Failure::Error(error), ""));
            }
        }
    }

    /// Gives up the result of a call.
    pub(crate) fn abandon(&self, sequence: u64) {
        self.lock().calls.release(sequence);
    }

    pub(crate) fn send(&self, channel: Channel, data: TensorData) -> Result<(), CommError> {
        let mut state = self.lock();
        if let Some(failure) = &state.failure {
            let during = format!("send to {}", self.labels[channel.to]);
            return Err(failure.seen(&during, &self.name));
        }
        state.mailbox.put(channel, data);
        self.changed.notify_all();
        Ok(())
    }

    pub(crate) fn post(&self, channel: Channel, text: &str) -> Result<u64, CommError> {
        let mut state = self.lock();
        match &state.failure {
            Some(failure) => Err(failure.seen(text, &self.name)),
            None => Ok(state.mailbox.post(channel)),
        }
    }

    pub(crate) fn receive(
        &self,
        channel: Channel,
        ticket: u64,
        text: &str,
    ) -> Result<TensorData, CommError> {
        let start = Instant::now();
        let mut state = self.lock();
        loop {
            if let Some(data) = state.mailbox.claim(channel, ticket) {
                return Ok(data);
            }
            if let Some(failure) = &state.failure {
                return Err(failure.seen(text, &self.name));
            }
            if let Some(reason) = &state.left[channel.from] {
                let rank = self.members[channel.from];
                return Err(Failure::Peer { rank, reason: reason.clone() }.seen(text, &self.name));
            }
            let limit = self.timeouts.receive;
            let Some(left) = limit.checked_sub(start.elapsed()) else {
                return Err(self.nothing_sent(&state, channel, ticket, text, limit));
            };
            state = self.sleep(state, left);
        }
    }

    pub(crate) fn withdraw(&self, channel: Channel, ticket: u64) {
        self.lock().mailbox.withdraw(channel, ticket);
    }

    /// Makes every pending and later call of the group fail; the first failure stays.
    pub(crate) fn fail(&self, failure: Failure) {
        let mut state = self.lock();
        self.fail_locked(&mut state, failure, "");
    }

    /// Notes that a rank will make no more calls, and fails calls that wait for it.
    pub(crate) fn leave(&self, rank: usize, reason: &str) {
        let Some(member) = self.members.iter().position(|member| *member == rank) else {
            return;
        };
        let mut state = self.lock();
        state.left[member] = Some(reason.to_owned());
        let waiting = state.calls.lacks(member);
        if waiting {
            self.fail_locked(&mut state, Failure::Peer { rank, reason: reason.to_owned() }, "");
        }
        self.changed.notify_all();
    }

    fn sleep<'a>(&self, state: MutexGuard<'a, State>, limit: Duration) -> MutexGuard<'a, State> {
        let woken = self.changed.wait_timeout(state, limit);
        woken.unwrap_or_else(PoisonError::into_inner).0
    }

    fn fail_locked(&self, state: &mut State, failure: Failure, during: &str) -> CommError {
        let failure = state.failure.get_or_insert(failure).clone();
        self.changed.notify_all();
        failure.seen(during, &self.name)
    }

    fn mismatch(&self, sequence: u64, first: (usize, &Call), second: (usize, &Call)) -> CommError {
        let side = |(member, call): (usize, &Call)| {
            Box::new(Side { member: self.labels[member].clone(), call: call.to_string() })
        };
        CommError::Mismatch {
            group: self.name.clone(),
            sequence,
            first: side(first),
            second: side(second),
        }
    }

    fn late(&self, state: &State, member: usize, sequence: u64, waited: Duration) -> CommError {
        let slot = state.calls.slot(sequence);
        let describe = |m: usize| format!("{} (at call {})", self.labels[m], state.calls.issued(m));
        CommError::Timeout {
            group: self.name.clone(),
            sequence,
            call: slot.text(member),
            waited,
            missing: slot.absent().map(describe).collect(),
        }
    }

    fn nothing_sent(
        &self,
        state: &State,
        channel: Channel,
        ticket: u64,
        text: &str,
        waited: Duration,
    ) -> CommError {
        let sender = &self.labels[channel.from];
        let others = state.mailbox.waiting_tags(channel.from, channel.to);
        let missing = match others.as_slice() {
            [] => sender.clone(),
            tags => format!("{sender} (which sent tensors under other tags: {tags:?})"),
        };
        CommError::Timeout {
            group: self.name.clone(),
            sequence: ticket,
            call: text.to_owned(),
            waited,
            missing: vec![missing],
        }
    }
}

fn numbered(sequence: u64, call: &impl std::fmt::Display) -> String {
    format!("call {sequence}, {call},")
}
