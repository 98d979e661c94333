//! The calls of a group by sequence number, from the first member that makes one to the last that
//! has its result.

use std::collections::VecDeque;
use std::sync::Arc;

use super::super::{Call, Collective};
use super::Input;
use super::exchange::Inputs;
use super::job::Job;

/// What a call is once every member has made it.
#[derive(Debug, Clone)]
pub(crate) enum Met {
    /// Host buffers on which the members work together.
    Job(Arc<Job>),
    /// Device tensors of which each member computes its own result.
    Exchange(Inputs),
}

impl Met {
    /// Takes the inputs of matching calls, which lie in one kind of memory.
    fn new(collective: Collective, inputs: Vec<Option<Input>>) -> Self {
        if inputs.iter().flatten().any(|input| matches!(input, Input::Device(_))) {
            let device = |input| match input {
                Some(Input::Device(tensor)) => Some(tensor),
                Some(Input::Host(_)) | None => None,
            };
            return Self::Exchange(inputs.into_iter().map(device).collect());
        }
        let host = |input| match input {
            Some(Input::Host(data)) => Some(data),
            Some(Input::Device(_)) | None => None,
        };
        Self::Job(Arc::new(Job::new(collective, inputs.into_iter().map(host).collect())))
    }
}

/// One call under one sequence number.
#[derive(Debug)]
pub(crate) struct Slot {
    calls: Vec<Option<Call>>,
    inputs: Vec<Option<Input>>,
    arrived: usize,
    met: Option<Met>,
    finished: bool,
    /// Members that have their result or gave it up.
    released: usize,
}

/// The calls that some member still needs, in order.
#[derive(Debug)]
pub(crate) struct Calls {
    /// Sequence number of the front of `slots`.
    first: u64,
    slots: VecDeque<Slot>,
    /// Number of calls each member has issued.
    issued: Vec<u64>,
}

impl Calls {
    pub(crate) fn new(members: usize) -> Self {
        Self { first: 0, slots: VecDeque::new(), issued: vec![0; members] }
    }

    /// Returns the number of calls a member has issued, which is the sequence number of its next
    /// one.
    pub(crate) fn issued(&self, member: usize) -> u64 {
        self.issued[member]
    }

    /// Returns the slot of a call that its caller has not released.
    pub(crate) fn slot(&self, sequence: u64) -> &Slot {
        &self.slots[self.index(sequence)]
    }

    /// Counts a member's next call in and returns its slot, new if the member is the first.
    pub(crate) fn next(&mut self, member: usize) -> &mut Slot {
        let index = self.index(self.issued[member]);
        self.issued[member] += 1;
        if index == self.slots.len() {
            self.slots.push_back(Slot::new(self.issued.len()));
        }
        &mut self.slots[index]
    }

    /// Returns true if other members wait for a call this member has not made.
    pub(crate) fn lacks(&self, member: usize) -> bool {
        self.slots.iter().any(|slot| slot.calls[member].is_none())
    }

    /// Returns a call once it and all before it are finished.
    pub(crate) fn completed(&self, sequence: u64) -> Option<Met> {
        let index = self.index(sequence);
        let finished = self.slots.iter().take(index + 1).all(|slot| slot.finished);
        if finished { self.slots[index].met.clone() } else { None }
    }

    /// Returns the earliest call up to `sequence` that has work nobody has taken.
    pub(crate) fn open_job(&self, sequence: u64) -> Option<(u64, Arc<Job>)> {
        let upto = self.slots.iter().take(self.index(sequence) + 1);
        upto.enumerate().find_map(|(i, slot)| {
            let Some(Met::Job(job)) = &slot.met else { return None };
            job.has_unclaimed().then(|| (self.first + i as u64, Arc::clone(job)))
        })
    }

    /// Notes that the last task of a call is done; nobody may need the call any more.
    pub(crate) fn finish(&mut self, sequence: u64) {
        if sequence >= self.first {
            let index = self.index(sequence);
            self.slots[index].finished = true;
        }
    }

    /// Counts a member out of a call and forgets calls that every member is out of.
    pub(crate) fn release(&mut self, sequence: u64) {
        let index = self.index(sequence);
        self.slots[index].released += 1;
        let members = self.issued.len();
        while self.slots.front().is_some_and(|slot| slot.released == members) {
            self.slots.pop_front();
            self.first += 1;
        }
    }

    fn index(&self, sequence: u64) -> usize {
        (sequence - self.first) as usize
    }
}

impl Slot {
    fn new(members: usize) -> Self {
        Self {
            calls: vec![None; members],
            inputs: (0..members).map(|_| None).collect(),
            arrived: 0,
            met: None,
            finished: false,
            released: 0,
        }
    }

    /// Returns the first call that does not fit `call`.
    pub(crate) fn conflict(&self, call: &Call) -> Option<(usize, &Call)> {
        let present = self.calls.iter().enumerate();
        let mut present = present.filter_map(|(m, other)| Some((m, other.as_ref()?)));
        present.find(|(_, other)| !other.matches(call))
    }

    /// Enters a member's call, and makes it a job if the member is the last.
    pub(crate) fn enter(&mut self, member: usize, call: Call, input: Option<Input>) {
        let collective = call.collective;
        self.calls[member] = Some(call);
        self.inputs[member] = input;
        self.arrived += 1;
        if self.is_complete() {
            let met = Met::new(collective, std::mem::take(&mut self.inputs));
            self.finished = match &met {
                Met::Job(job) => job.is_empty(),
                Met::Exchange(_) => true,
            };
            self.met = Some(met);
        }
    }

    /// Returns true if every member has come.
    pub(crate) fn is_complete(&self) -> bool {
        self.arrived == self.calls.len()
    }

    /// Returns the members that have not come.
    pub(crate) fn absent(&self) -> impl Iterator<Item = usize> {
        let calls = self.calls.iter().enumerate();
        calls.filter(|(_, call)| call.is_none()).map(|(member, _)| member)
    }

    /// Returns what a member called, and where.
    pub(crate) fn text(&self, member: usize) -> String {
        self.calls[member].as_ref().map_or_else(String::new, ToString::to_string)
    }
}
