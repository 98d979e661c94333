//! Collectives of host data: control numbers, texts and checkpoints, staged through the GPU's memory.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::{Bytes, DType, TensorData};

use super::super::local::rendezvous::Failure;
use super::super::{Call, Collective, CommError, Pending};
use super::greeting::{self, Greetings, Trail};
use super::library::{Communicator, Transfer};
use super::line::{Kept, Lease, Line, Shared};
use super::parcels::{Message, Parcels};
use crate::backend::driver::{Event, Span, Stream};

/// One member's part of a group of several.
pub(super) struct Group {
    pub(super) shared: Arc<Shared>,
    pub(super) line: Arc<Line>,
    pub(super) members: Vec<usize>,
    pub(super) me: usize,
    calls: Mutex<Calls>,
}

/// What this member has called so far.
#[derive(Default)]
struct Calls {
    issued: u64,
    trail: Trail,
}

/// Memory for what goes out and for what comes in.
type Leases = Arc<(Lease, Lease)>;

/// A greeting on its way to all members.
struct Asked {
    end: Arc<Event>,
    leases: Leases,
}

/// Data on its way.
struct Moving {
    parcels: Parcels,
    packed: Option<Bytes>,
    /// Absent where nothing moves.
    received: Option<(Arc<Event>, Leases)>,
}

impl Group {
    pub(super) fn new(
        shared: Arc<Shared>,
        line: Arc<Line>,
        members: Vec<usize>,
        me: usize,
    ) -> Arc<Self> {
        Arc::new(Self { shared, line, members, me, calls: Mutex::default() })
    }

    /// Counts a call of this member and returns its number; one of device tensors joins the trail.
    pub(super) fn count(&self, call: &Call, is_on_device: bool) -> Result<(u64, Trail), CommError> {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let sequence = calls.issued;
        calls.issued += 1;
        if is_on_device {
            calls.trail.add(call).ok_or_else(|| self.unfit(call))?;
        }
        Ok((sequence, calls.trail.clone()))
    }

    fn unfit(&self, call: &Call) -> CommError {
        self.said(
            call,
            "tensors of this kind or of more than 8 dimensions do not travel".to_owned(),
        )
    }

    /// Returns what NCCL or the driver said during a call.
    pub(super) fn said(&self, call: &Call, message: String) -> CommError {
        let group = self.line.name.clone();
        CommError::Library { group, library: "NCCL", during: call.to_string(), message }
    }

    /// Issues a collective of host data.
    pub(super) fn issue(
        self: &Arc<Self>,
        call: Call,
        input: Option<TensorData>,
    ) -> Result<Box<dyn Pending>, CommError> {
        let (sequence, trail) = self.count(&call, false)?;
        let asked = self.ask(&call, sequence, &trail)?;
        // Who receives a part of a scatter learns its shape from the root.
        let kind = match (&call.input, call.collective) {
            (None, Collective::Scatter { root }) => self.compare(&asked, sequence, &call, root)?,
            (Some(kind), _) => kind.clone(),
            (None, _) => (Vec::new(), DType::U8),
        };
        let moving = self.start(&call, sequence, &kind, input)?;
        Ok(Box::new(PendingHost { group: Arc::clone(self), call, sequence, asked, moving }))
    }

    /// Learns shape and type of the tensor that the root of a device scatter gives.
    pub(super) fn agree(
        &self,
        call: &Call,
        sequence: u64,
        trail: &Trail,
        root: usize,
    ) -> Result<(Vec<usize>, DType), CommError> {
        let asked = self.ask(call, sequence, trail)?;
        self.compare(&asked, sequence, call, root)
    }

    /// Sends the greeting of a call to all members.
    fn ask(&self, call: &Call, sequence: u64, trail: &Trail) -> Result<Asked, CommError> {
        let greeting = greeting::write(call, trail).ok_or_else(|| self.unfit(call))?;
        let all = greeting::BYTES * self.members.len();
        let leases = Arc::new((self.upload(call, &greeting)?, self.lease(call, all)?));
        let spans = (leases.0.span(0, greeting::BYTES), leases.1.span(0, all));
        let text = format!("the greeting of {call}");
        let end = self.carry(call, &text, sequence, (&leases, all), |communicator, stream| {
            let count = greeting::BYTES;
            communicator.transfer(Transfer::AllGather, spans, count, DType::U8, stream)
        })?;
        Ok(Asked { end, leases })
    }

    /// Runs an operation from the first memory to the second and lets the result come down behind it.
    fn carry(
        &self,
        call: &Call,
        text: &str,
        sequence: u64,
        (leases, bytes): (&Leases, usize),
        start: impl FnOnce(&mut Communicator, &Stream) -> Result<(), String>,
    ) -> Result<Arc<Event>, CommError> {
        let kept: Kept = Arc::clone(leases) as Kept;
        let end = self.line.run(&self.shared, text, &kept, start)?;
        self.line.watch(&end, Arc::clone(&kept), sequence, text.to_owned());
        let copied = leases.1.download(bytes, self.line.stream());
        let end = copied.and_then(|()| Event::after(self.line.stream())).map(Arc::new);
        let end = end.map_err(|message| self.said(call, message))?;
        self.line.watch(&end, kept, sequence, text.to_owned());
        Ok(end)
    }

    /// Waits for all greetings, compares them and returns what a member gives.
    fn compare(
        &self,
        asked: &Asked,
        sequence: u64,
        call: &Call,
        giver: usize,
    ) -> Result<(Vec<usize>, DType), CommError> {
        self.line.await_end(&asked.end, &format!("call {sequence}, {call},"))?;
        let bytes = asked.leases.1.read(greeting::BYTES * self.members.len(), &asked.end);
        let greetings = Greetings::read(bytes);
        let agreed = greetings.agree(&self.line.name, sequence, &self.line.labels());
        agreed.inspect_err(|error| self.line.fail(Failure::Error(error.clone())))?;
        Ok(greetings.header(giver).input().unwrap_or((Vec::new(), DType::U8)))
    }

    /// Starts to move the data of a call, without waiting for the comparison: members that differ may
    /// get stuck here, and the comparison then ends the communicator.
    fn start(
        &self,
        call: &Call,
        sequence: u64,
        kind: &(Vec<usize>, DType),
        input: Option<TensorData>,
    ) -> Result<Moving, CommError> {
        let parcels = Parcels::new(call.collective, kind, self.members.len(), self.me);
        let packed = parcels.pack(input);
        let (sends, receives) = (parcels.sends(), parcels.receives());
        if sends.is_empty() && receives.is_empty() {
            return Ok(Moving { parcels, packed, received: None });
        }
        let total = parcels.received_bytes();
        let given = self.upload(call, packed.as_deref().unwrap_or_default())?;
        let leases = Arc::new((given, self.lease(call, total)?));
        let spans = |messages: &[Message], lease: &Lease| -> Vec<(usize, Span)> {
            let span = |m: &Message| (m.peer, lease.span(m.offset, m.bytes));
            messages.iter().map(span).collect()
        };
        let (sends, receives) = (spans(&sends, &leases.0), spans(&receives, &leases.1));
        let text = call.to_string();
        let end = self.carry(call, &text, sequence, (&leases, total), |communicator, stream| {
            communicator.exchange(&sends, &receives, stream)
        })?;
        Ok(Moving { parcels, packed, received: Some((end, leases)) })
    }

    fn lease(&self, call: &Call, bytes: usize) -> Result<Lease, CommError> {
        self.shared.gpu.enter().map_err(|message| self.said(call, message))?;
        self.shared.staging(bytes).map_err(|message| self.said(call, message))
    }

    fn upload(&self, call: &Call, bytes: &[u8]) -> Result<Lease, CommError> {
        let mut lease = self.lease(call, bytes.len())?;
        let copied = lease.upload(bytes, self.line.stream());
        copied.map_err(|message| self.said(call, message))?;
        Ok(lease)
    }
}

/// A collective of host data under way.
struct PendingHost {
    group: Arc<Group>,
    call: Call,
    sequence: u64,
    asked: Asked,
    moving: Moving,
}

impl Pending for PendingHost {
    fn wait(self: Box<Self>) -> Result<Option<TensorData>, CommError> {
        let Self { group, call, sequence, asked, moving } = *self;
        group.compare(&asked, sequence, &call, 0)?;
        let Moving { parcels, packed, received } = moving;
        let bytes = parcels.received_bytes();
        let received = match received {
            Some((end, leases)) => {
                group.line.await_end(&end, &format!("call {sequence}, {call},"))?;
                leases.1.read(bytes, &end)
            }
            None => vec![0; bytes],
        };
        Ok(parcels.finish(packed, received))
    }
}

impl fmt::Debug for PendingHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingHost")
            .field("call", &self.call)
            .field("sequence", &self.sequence)
            .finish_non_exhaustive()
    }
}
