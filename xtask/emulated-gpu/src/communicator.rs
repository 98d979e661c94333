//! A member of a communicator, and what it does when its stream comes to a call.

use std::collections::hash_map::DefaultHasher;
use std::ffi::{CString, c_int};
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex};

use crate::lock;
use crate::memory;
use crate::reduce::{reduce, size};
use crate::world::World;

/// Codes of `ncclResult_t`.
pub(crate) const SUCCESS: c_int = 0;
pub(crate) const SYSTEM: c_int = 2;
pub(crate) const INVALID_ARGUMENT: c_int = 4;
pub(crate) const INVALID_USAGE: c_int = 5;
pub(crate) const IN_PROGRESS: c_int = 7;

/// One end of a communicator.
pub(crate) struct Communicator {
    id: u64,
    rank: usize,
    /// Ranks of the world, by place.
    members: Vec<usize>,
    /// Absent until the processes have met.
    world: Arc<Mutex<Option<Arc<World>>>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    is_busy: bool,
    is_aborted: bool,
    splits: u64,
    error: c_int,
    message: CString,
}

/// What a member does.
#[derive(Clone, Copy)]
pub(crate) enum Operation {
    AllReduce(c_int),
    AllGather,
    ReduceScatter(c_int),
    Broadcast(usize),
    Reduce(c_int, usize),
    Send(usize),
    Receive(usize),
}

/// A call with its buffers.
#[derive(Clone, Copy)]
pub(crate) struct Call {
    pub(crate) operation: Operation,
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) count: usize,
    pub(crate) kind: c_int,
}

impl Communicator {
    /// Makes one end of a world that is yet to be joined; it is busy until then.
    pub(crate) fn of_world(rank: usize, members: usize) -> Self {
        Self {
            id: 1,
            rank,
            members: (0..members).collect(),
            world: Arc::default(),
            state: Mutex::new(State { is_busy: true, ..State::default() }),
        }
    }

    pub(crate) fn enter(&self, world: Arc<World>) {
        *lock(&self.world) = Some(world);
    }

    pub(crate) fn size(&self) -> usize {
        self.members.len()
    }

    /// Tells whether a call is under way, or what went wrong.
    pub(crate) fn status(&self) -> c_int {
        let state = lock(&self.state);
        if state.error == SUCCESS && state.is_busy { IN_PROGRESS } else { state.error }
    }

    pub(crate) fn message(&self) -> CString {
        lock(&self.state).message.clone()
    }

    pub(crate) fn abort(&self) {
        lock(&self.state).is_aborted = true;
    }

    fn world(&self) -> Option<Arc<World>> {
        lock(&self.world).clone()
    }

    fn is_aborted(&self) -> bool {
        lock(&self.state).is_aborted
    }

    pub(crate) fn fail(&self, error: c_int, message: &str) -> c_int {
        let mut state = lock(&self.state);
        state.error = error;
        state.message = CString::new(message).unwrap_or_default();
        error
    }

    /// Begins a call; only one may be under way.
    pub(crate) fn begin(&self) -> c_int {
        let mut state = lock(&self.state);
        if state.is_busy || state.is_aborted {
            let message = c"Attempt to use communicator before the previous operation returned";
            message.clone_into(&mut state.message);
            return INVALID_ARGUMENT;
        }
        state.is_busy = true;
        SUCCESS
    }

    pub(crate) fn end(&self) {
        lock(&self.state).is_busy = false;
    }

    /// Sends each member its message, and returns theirs.
    fn exchange(&self, messages: &[&[u8]]) -> Option<Vec<Vec<u8>>> {
        let world = self.world()?;
        for (peer, message) in self.members.iter().zip(messages) {
            world.send(self.id, *peer, message);
        }
        let receive = |peer: &usize| world.receive(self.id, *peer, || self.is_aborted());
        self.members.iter().map(receive).collect()
    }

    /// Carries out what was queued together. Nothing is written when it was aborted.
    pub(crate) fn run(&self, calls: &[Call]) -> Option<()> {
        for call in calls {
            if let Operation::Send(to) = call.operation {
                let bytes = call.count * size(call.kind)?;
                self.world()?.send(self.id, self.members[to], read(call.from, bytes));
            }
        }
        for call in calls {
            write(call.to, &self.answer(call)?);
        }
        Some(())
    }

    /// Returns what a call writes, which may be nothing.
    fn answer(&self, call: &Call) -> Option<Vec<u8>> {
        let bytes = call.count * size(call.kind)?;
        let all = self.members.len();
        Some(match call.operation {
            Operation::AllReduce(op) => {
                reduce(call.kind, op, &self.exchange(&vec![read(call.from, bytes); all])?)
            }
            Operation::Reduce(op, root) => {
                let blocks = self.exchange(&vec![read(call.from, bytes); all])?;
                if root == self.rank { reduce(call.kind, op, &blocks) } else { Vec::new() }
            }
            Operation::AllGather => self.exchange(&vec![read(call.from, bytes); all])?.concat(),
            Operation::ReduceScatter(op) => {
                let whole = read(call.from, bytes * all);
                let part = |place| &whole[place * bytes..][..bytes];
                let parts: Vec<&[u8]> = (0..all).map(part).collect();
                reduce(call.kind, op, &self.exchange(&parts)?)
            }
            Operation::Broadcast(root) => {
                let mine = if root == self.rank { read(call.from, bytes) } else { &[] };
                self.exchange(&vec![mine; all])?.swap_remove(root)
            }
            Operation::Receive(from) => {
                let peer = self.members[from];
                self.world()?.receive(self.id, peer, || self.is_aborted())?
            }
            Operation::Send(_) => Vec::new(),
        })
    }

    /// Makes one end of the communicator of those that give the same color, in the order of their keys.
    pub(crate) fn split(&self, color: c_int, key: c_int) -> Option<Self> {
        let mut state = lock(&self.state);
        state.splits += 1;
        let splits = state.splits;
        drop(state);
        let card = [color.to_le_bytes(), key.to_le_bytes()].concat();
        let cards = self.exchange(&vec![&card[..]; self.members.len()])?;
        let number = |bytes: &[u8]| bytes.try_into().map_or(0, i32::from_le_bytes);
        let places = self.members.iter().zip(&cards);
        let mut places: Vec<(c_int, usize)> = places
            .filter(|(_, card)| number(&card[..4]) == color)
            .map(|(member, card)| (number(&card[4..]), *member))
            .collect();
        places.sort_unstable();
        if color < 0 {
            return None;
        }
        let members: Vec<usize> = places.into_iter().map(|(_, member)| member).collect();
        let own = self.members[self.rank];
        let mut hasher = DefaultHasher::new();
        (self.id, splits, color).hash(&mut hasher);
        Some(Self {
            id: hasher.finish(),
            rank: members.iter().position(|member| *member == own)?,
            members,
            world: Arc::clone(&self.world),
            state: Mutex::default(),
        })
    }
}

fn read<'a>(address: u64, bytes: usize) -> &'a [u8] {
    memory::check(address, bytes, "a read of NCCL");
    if bytes == 0 {
        return &[];
    }
    // SAFETY: checked; whoever called NCCL keeps it as long as the operation runs.
    unsafe {
        let memory = std::ptr::with_exposed_provenance::<u8>(address as usize);
        std::slice::from_raw_parts(memory, bytes)
    }
}

fn write(address: u64, bytes: &[u8]) {
    memory::check(address, bytes.len(), "a write of NCCL");
    // SAFETY: as in `read`.
    unsafe {
        let memory = std::ptr::with_exposed_provenance_mut::<u8>(address as usize);
        bytes.as_ptr().copy_to(memory, bytes.len());
    }
}
