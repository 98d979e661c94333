//! Tensors on their way from one member to another.

use std::collections::{BTreeMap, VecDeque};

use burn::tensor::TensorData;

/// Names a one-way channel between two members.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Channel {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) tag: u64,
}

/// Holds tensors sent but not received, and receives posted but not served; the first goes to the
/// first.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    queues: BTreeMap<Channel, Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    tensors: VecDeque<TensorData>,
    tickets: VecDeque<u64>,
    next_ticket: u64,
}

impl Mailbox {
    pub(crate) fn put(&mut self, channel: Channel, data: TensorData) {
        self.queues.entry(channel).or_default().tensors.push_back(data);
    }

    /// Posts a receive and returns its number on the channel.
    pub(crate) fn post(&mut self, channel: Channel) -> u64 {
        let queue = self.queues.entry(channel).or_default();
        let ticket = queue.next_ticket;
        queue.next_ticket += 1;
        queue.tickets.push_back(ticket);
        ticket
    }

    /// Returns the tensor for a posted receive, if it has come.
    pub(crate) fn claim(&mut self, channel: Channel, ticket: u64) -> Option<TensorData> {
        let queue = self.queues.get_mut(&channel)?;
        let place = queue.tickets.iter().position(|posted| *posted == ticket)?;
        let data = queue.tensors.remove(place)?;
        queue.tickets.remove(place);
        Some(data)
    }

    /// Takes back a posted receive; the tensor it would have got goes to the next one.
    pub(crate) fn withdraw(&mut self, channel: Channel, ticket: u64) {
        if let Some(queue) = self.queues.get_mut(&channel) {
            queue.tickets.retain(|posted| *posted != ticket);
        }
    }

    /// Returns the tags under which tensors from one member to another wait unclaimed.
    pub(crate) fn waiting_tags(&self, from: usize, to: usize) -> Vec<u64> {
        let waiting = self.queues.iter().filter(|(channel, queue)| {
            channel.from == from && channel.to == to && !queue.tensors.is_empty()
        });
        waiting.map(|(channel, _)| channel.tag).collect()
    }
}
