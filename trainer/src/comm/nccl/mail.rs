//! Tensors from member to member: a letter with group, tag, shape and type, then one with the elements.
//!
//! NCCL's messages have no tags and are received in the order in which they were sent, so a receiver
//! takes in what comes from a rank and sorts it in [`Mailbox`]es. What goes to higher ranks and what goes
//! to lower ones take lines of their own, so that two ranks that send to each other do not wait in a
//! circle. NCCL buffers small messages; a large one waits, on the GPU, until it is received.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use burn::tensor::TensorData;

use super::super::CommError;
use super::super::header::{decode_type, encode_type};
use super::super::local::mailbox::{Channel, Mailbox};
use super::super::local::rendezvous::Failure;
use super::line::{Kept, Lease, Line, Pause, Shared};
use crate::backend::driver::Event;

/// Words of the first letter: group, tag, type and shape.
const WORDS: usize = 12;
const ADDRESS_BYTES: usize = WORDS * 8;

/// What one rank sends and receives, in all groups.
pub(super) struct Mail {
    shared: Arc<Shared>,
    up: Arc<Line>,
    down: Arc<Line>,
    /// By group.
    boxes: Mutex<BTreeMap<u64, Mailbox>>,
    /// Letters of which NCCL may still read the memory.
    sent: Mutex<Vec<(Arc<Event>, Kept)>>,
    /// Held while one thread takes letters in.
    taking: Mutex<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Mail {
    pub(super) fn new(shared: Arc<Shared>, up: Arc<Line>, down: Arc<Line>) -> Arc<Self> {
        let (boxes, sent, taking) = (Mutex::default(), Mutex::default(), Mutex::default());
        Arc::new(Self { shared, up, down, boxes, sent, taking })
    }

    fn line(&self, from: usize, to: usize) -> &Line {
        if from < to { &self.up } else { &self.down }
    }

    /// Sends a tensor to a rank, under a group and a tag.
    pub(super) fn send(
        &self,
        data: TensorData,
        to: usize,
        group: u64,
        tag: u64,
    ) -> Result<(), CommError> {
        let me = self.shared.rank;
        if to == me {
            let channel = Channel { from: me, to: me, tag };
            lock(&self.boxes).entry(group).or_default().put(channel, data);
            return Ok(());
        }
        let line = self.line(me, to);
        let during = format!("send to rank {to}");
        let unfit = || library(line, &during, "tensors of this kind do not travel".to_owned());
        let kind = encode_type(&data.shape().to_vec(), data.dtype()).ok_or_else(unfit)?;
        let words: Vec<u8> = [&[group, tag][..], &kind]
            .concat()
            .iter()
            .flat_map(|word| word.to_ne_bytes())
            .collect();
        lock(&self.sent).retain(|(end, _)| end.is_reached() != Ok(true));
        for bytes in [&words[..], data.as_bytes()] {
            if !bytes.is_empty() {
                self.post(line, &during, to, bytes)?;
            }
        }
        Ok(())
    }

    fn post(&self, line: &Line, during: &str, to: usize, bytes: &[u8]) -> Result<(), CommError> {
        let mut lease = self.lease(line, during, bytes.len())?;
        let uploaded = lease.upload(bytes, line.stream());
        uploaded.map_err(|message| library(line, during, message))?;
        let span = lease.span(0, bytes.len());
        let kept: Kept = Arc::new(lease);
        let end = line.run(&self.shared, during, &kept, |communicator, stream| {
            communicator.exchange(&[(to, span)], &[], stream)
        })?;
        lock(&self.sent).push((end, kept));
        Ok(())
    }

    /// Asks for the next tensor of a channel and returns the number of the wish.
    pub(super) fn ask(&self, from: usize, group: u64, tag: u64) -> u64 {
        let channel = Channel { from, to: self.shared.rank, tag };
        lock(&self.boxes).entry(group).or_default().post(channel)
    }

    /// Takes back a wish.
    pub(super) fn withdraw(&self, from: usize, group: u64, tag: u64, ticket: u64) {
        let channel = Channel { from, to: self.shared.rank, tag };
        lock(&self.boxes).entry(group).or_default().withdraw(channel, ticket);
    }

    /// Waits for the tensor of a wish; `during` says what for.
    pub(super) fn receive(
        &self,
        from: usize,
        group: u64,
        tag: u64,
        ticket: u64,
        during: &str,
    ) -> Result<TensorData, CommError> {
        let channel = Channel { from, to: self.shared.rank, tag };
        let claim = || lock(&self.boxes).entry(group).or_default().claim(channel, ticket);
        loop {
            if let Some(data) = claim() {
                return Ok(data);
            }
            let _taking = lock(&self.taking);
            // Another thread may have taken it in meanwhile; nobody else sends to oneself.
            if let Some(data) = claim() {
                return Ok(data);
            }
            if from == self.shared.rank {
                let line = self.line(from, from);
                return Err(self.late(line, ticket, during, "this rank itself"));
            }
            self.take_in(from, ticket, during)?;
        }
    }

    /// Receives one tensor from a rank, whatever it is for.
    fn take_in(&self, from: usize, ticket: u64, during: &str) -> Result<(), CommError> {
        let line = self.line(from, self.shared.rank);
        let address = self.take(line, from, ADDRESS_BYTES, ticket, during)?;
        let words: Vec<u64> = address
            .chunks_exact(8)
            .map(|word| word.try_into().map_or(0, u64::from_ne_bytes))
            .collect();
        let unknown = || library(line, during, "a message without an address came".to_owned());
        let (shape, dtype) = decode_type(&words[2..]).ok_or_else(unknown)?;
        let bytes = shape.iter().product::<usize>() * dtype.size();
        let elements = self.take(line, from, bytes, ticket, during)?;
        let channel = Channel { from, to: self.shared.rank, tag: words[1] };
        let data = TensorData::from_bytes_vec(elements, shape, dtype);
        lock(&self.boxes).entry(words[0]).or_default().put(channel, data);
        Ok(())
    }

    fn take(
        &self,
        line: &Line,
        from: usize,
        bytes: usize,
        ticket: u64,
        during: &str,
    ) -> Result<Vec<u8>, CommError> {
        if bytes == 0 {
            return Ok(Vec::new());
        }
        let lease = Arc::new(self.lease(line, during, bytes)?);
        let span = lease.span(0, bytes);
        let kept: Kept = Arc::clone(&lease) as Kept;
        line.run(&self.shared, during, &kept, |communicator, stream| {
            communicator.exchange(&[], &[(from, span)], stream)
        })?;
        let said = |message| library(line, during, message);
        lease.download(bytes, line.stream()).map_err(said)?;
        let end = Event::after(line.stream()).map_err(said)?;
        let (begun, mut pause) = (Instant::now(), Pause::default());
        while !end.is_reached().map_err(said)? {
            let failed = line.failed(during);
            let is_late = begun.elapsed() >= self.shared.timeouts.receive;
            if failed.is_some() || is_late {
                // NCCL may still write to the memory.
                std::mem::forget(kept);
                let sender = format!("rank {from}");
                return Err(failed.unwrap_or_else(|| self.late(line, ticket, during, &sender)));
            }
            pause.take();
        }
        Ok(lease.read(bytes, &end))
    }

    fn lease(&self, line: &Line, during: &str, bytes: usize) -> Result<Lease, CommError> {
        let entered = self.shared.gpu.enter();
        let lease = entered.and_then(|()| self.shared.staging(bytes));
        lease.map_err(|message| library(line, during, message))
    }

    /// Makes the line fail: a receive that is given up stays on it.
    fn late(&self, line: &Line, ticket: u64, during: &str, sender: &str) -> CommError {
        let error = CommError::Timeout {
            group: line.name.clone(),
            sequence: ticket,
            call: during.to_owned(),
            waited: self.shared.timeouts.receive,
            missing: vec![sender.to_owned()],
        };
        line.fail(Failure::Error(error.clone()));
        error
    }
}

fn library(line: &Line, during: &str, message: String) -> CommError {
    let (group, during) = (line.name.clone(), during.to_owned());
    CommError::Library { group, library: "NCCL", during, message }
}
