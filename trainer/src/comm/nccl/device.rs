//! Collectives of device tensors: from the memory of one GPU to that of another, on the stream of the
//! group, while the GPU computes on its own.
//!
//! An operation waits, on the GPU, for what was queued before it; whoever takes its result lets the
//! compute stream wait for it. The host does neither.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::StreamId;
use burn::tensor::{DType, Device, Shape};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use super::super::{Call, Collective, CommError, Erased, Pending, PendingTensor};
use super::host::Group;
use super::layout::{join, lead};
use super::library::{Communicator, Transfer, element};
use super::line::{Kept, Line};
use crate::backend::driver::{Event, Pinned, Runner, Span, Stream};
use crate::backend::{Settled, resolve};

/// What an operation reads and writes, which must neither move nor be used again before it has ended.
type Used = Mutex<Option<(Vec<CubeTensor>, Vec<Pinned>)>>;

impl Group {
    /// Issues a collective of device tensors.
    pub(super) fn issue_tensor(
        self: &Arc<Self>,
        call: Call,
        input: Option<Erased>,
        device: &Device,
    ) -> Result<Box<dyn PendingTensor>, CommError> {
        if call.collective == Collective::Barrier {
            return Ok(Box::new(PendingBarrier(self.issue(call, None)?)));
        }
        // A scatter is compared at once, because nobody but its root knows what it moves.
        let is_compared = matches!(call.collective, Collective::Scatter { .. });
        let (sequence, trail) = self.count(&call, !is_compared)?;
        let kind = match (&call.input, call.collective) {
            (_, Collective::Scatter { root }) => self.agree(&call, sequence, &trail, root)?,
            (Some(kind), _) => kind.clone(),
            (None, _) => (Vec::new(), DType::F32),
        };
        element(kind.1).map_err(|message| self.said(&call, message))?;
        let plan = Move::new(call.collective, &kind, (self.members.len(), self.me));
        if kind.0.iter().product::<usize>() == 0 {
            let result = plan.result(|shape| Erased::zeros(shape, kind.1, device));
            return Ok(Box::new(PendingNothing(result)));
        }
        let elsewhere = || self.said(&call, "the tensor does not live on a GPU".to_owned());
        let source = match input.map(|input| resolve(plan.prepare(input))) {
            Some(Settled::Cube(source)) => Some(into_contiguous(source)),
            Some(Settled::Other(_)) => return Err(elsewhere()),
            None => None,
        };
        let template = match source.clone() {
            Some(source) => source,
            None => match resolve(Erased::zeros(vec![1], kind.1, device)) {
                Settled::Cube(template) => template,
                Settled::Other(_) => return Err(elsewhere()),
            },
        };
        self.run_tensor(&call, sequence, plan, source.as_ref(), &template)
    }

    fn run_tensor(
        &self,
        call: &Call,
        sequence: u64,
        plan: Move,
        source: Option<&CubeTensor>,
        template: &CubeTensor,
    ) -> Result<Box<dyn PendingTensor>, CommError> {
        let said = |message: String| self.said(call, message);
        let target = plan.target.as_ref().map(|shape| empty(template, shape.clone(), plan.dtype));
        let tensors: Vec<CubeTensor> = source.into_iter().chain(&target).cloned().collect();
        let handles = tensors.iter().map(|tensor| tensor.handle.clone()).collect();
        let runner = Runner::of(template);
        let (pinned, ready) = runner.pin(handles).map_err(said)?;
        let spans = Spans {
            source: source.map(|_| pinned[0].span()),
            target: target.as_ref().map(|_| pinned[pinned.len() - 1].span()),
        };
        // Those of the tensors order who uses their memory later; that of this thread may be another.
        let mut streams: Vec<StreamId> =
            tensors.iter().map(|tensor| tensor.handle.stream).collect();
        streams.dedup();
        let used = Arc::new(Used::new(Some((tensors, pinned))));
        let kept: Kept = Arc::clone(&used) as Kept;
        let text = call.to_string();
        let end = self.line.run(&self.shared, &text, &kept, |communicator, stream| {
            stream.wait(&ready)?;
            plan.start(communicator, stream, &spans)
        })?;
        self.line.watch(&end, kept, sequence, text.clone());
        let line = Arc::clone(&self.line);
        Ok(Box::new(PendingMove { line, runner, plan, target, streams, used, end, text, sequence }))
    }
}

/// Reserves memory for a tensor on the device of another.
fn empty(like: &CubeTensor, shape: Vec<usize>, dtype: DType) -> CubeTensor {
    let bytes = shape.iter().product::<usize>() * dtype.size();
    let handle = like.client.empty(bytes);
    let (client, device) = (like.client.clone(), like.device.clone());
    CubeTensor::new_contiguous(client, device, Shape::from(shape), handle, dtype)
}

/// Blocks by the member that they go to or come from.
type Messages = Vec<(usize, Span)>;

/// The memory of an operation.
struct Spans {
    source: Option<Span>,
    target: Option<Span>,
}

/// How one member's part of a collective is carried out.
#[derive(Debug)]
struct Move {
    collective: Collective,
    members: usize,
    me: usize,
    dtype: DType,
    /// Elements that go from one member to one other; all of them for a reduction to all.
    block: usize,
    /// Shape of what is received, with the index of the member first where blocks are put together.
    target: Option<Vec<usize>>,
}

impl Move {
    fn new(
        collective: Collective,
        (shape, dtype): &(Vec<usize>, DType),
        (members, me): (usize, usize),
    ) -> Self {
        let mut block = shape.clone();
        if let Some(dim) = collective.split_dim() {
            block[dim] /= members;
        }
        let is_root = collective.root() == Some(me);
        let gets = match collective {
            Collective::Gather { .. } | Collective::Reduce { .. } => is_root,
            _ => true,
        };
        let length = block.iter().product();
        if collective.concat_dim().is_some() {
            block.insert(0, members);
        }
        let target = gets.then_some(block);
        Self { collective, members, me, dtype: *dtype, block: length, target }
    }

    /// Brings an input into the order in which it is sent.
    fn prepare(&self, input: Erased) -> Erased {
        match self.collective.split_dim() {
            Some(dim) => lead(input, dim, self.members),
            None => input,
        }
    }

    /// Brings what was received into the order of the result.
    fn finish(&self, received: Erased) -> Erased {
        match self.collective.concat_dim() {
            Some(dim) => join(received, dim),
            None => received,
        }
    }

    /// Returns the result over no elements.
    fn result(&self, zeros: impl FnOnce(Vec<usize>) -> Erased) -> Option<Erased> {
        self.target.clone().map(|shape| self.finish(zeros(shape)))
    }

    fn start(
        &self,
        communicator: &mut Communicator,
        stream: &Stream,
        spans: &Spans,
    ) -> Result<(), String> {
        // Where one side is not asked for, NCCL looks at the other only.
        let (source, target) = (spans.source.or(spans.target), spans.target.or(spans.source));
        let both = source.zip(target).ok_or("a member that neither gives nor gets")?;
        let transfer = match self.collective {
            Collective::AllReduce { op } => Transfer::AllReduce(op),
            Collective::AllGather { .. } => Transfer::AllGather,
            Collective::ReduceScatter { op, .. } => Transfer::ReduceScatter(op),
            Collective::Broadcast { root } => Transfer::Broadcast(root),
            Collective::Reduce { root, op } => Transfer::Reduce(op, root),
            Collective::AllToAll { .. }
            | Collective::Scatter { .. }
            | Collective::Gather { .. } => {
                let (sends, receives) = self.messages(spans);
                return communicator.exchange(&sends, &receives, stream);
            }
            Collective::Barrier => return Ok(()),
        };
        communicator.transfer(transfer, both, self.block, self.dtype, stream)
    }

    /// Returns the blocks that go to and come from each member, this one among them.
    fn messages(&self, spans: &Spans) -> (Messages, Messages) {
        let bytes = self.block * self.dtype.size();
        let part = |whole: Span, place: usize| {
            assert!((place + 1) * bytes <= whole.bytes, "blocks lie in their tensor");
            Span { address: whole.address + (place * bytes) as u64, bytes }
        };
        let all = 0..self.members;
        let (givers, takers) = match self.collective {
            Collective::Scatter { root } => (root..root + 1, all),
            Collective::Gather { root } => (all, root..root + 1),
            _ => (all.clone(), all),
        };
        let (is_cut, is_joined) =
            (self.collective.split_dim().is_some(), self.collective.concat_dim().is_some());
        let sent = spans.source.filter(|_| givers.contains(&self.me)).map(|source| {
            takers.clone().map(|peer| (peer, part(source, if is_cut { peer } else { 0 }))).collect()
        });
        let taken = spans.target.filter(|_| takers.contains(&self.me)).map(|target| {
            givers.map(|peer| (peer, part(target, if is_joined { peer } else { 0 }))).collect()
        });
        (sent.unwrap_or_default(), taken.unwrap_or_default())
    }
}

/// A collective of device tensors under way.
struct PendingMove {
    line: Arc<Line>,
    runner: Runner,
    plan: Move,
    target: Option<CubeTensor>,
    streams: Vec<StreamId>,
    used: Arc<Used>,
    end: Arc<Event>,
    text: String,
    sequence: u64,
}

impl PendingTensor for PendingMove {
    fn wait(self: Box<Self>) -> Result<Option<Erased>, CommError> {
        let during = format!("call {}, {},", self.sequence, self.text);
        if let Some(error) = self.line.failed(&during) {
            return Err(error);
        }
        let mut streams = self.streams;
        let current = StreamId::current();
        if !streams.contains(&current) {
            streams.push(current);
        }
        let held = self.runner.hold_back(streams, &self.end);
        held.map_err(|message| CommError::Library {
            group: self.line.name.clone(),
            library: "NCCL",
            during,
            message,
        })?;
        // What is queued from now on runs after the operation, also what uses this memory again.
        drop(self.used.lock().unwrap_or_else(PoisonError::into_inner).take());
        let received = self.target.map(|target| Settled::Cube(target).adopt());
        Ok(received.map(|received| self.plan.finish(received)))
    }
}

impl fmt::Debug for PendingMove {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingMove").field("call", &self.text).finish_non_exhaustive()
    }
}

/// A meeting, which moves nothing.
#[derive(Debug)]
struct PendingBarrier(Box<dyn Pending>);

impl PendingTensor for PendingBarrier {
    fn wait(self: Box<Self>) -> Result<Option<Erased>, CommError> {
        self.0.wait().map(|_| None)
    }
}

/// An operation over no elements, which is over at once.
#[derive(Debug)]
struct PendingNothing(Option<Erased>);

impl PendingTensor for PendingNothing {
    fn wait(self: Box<Self>) -> Result<Option<Erased>, CommError> {
        Ok(self.0)
    }
}
