//! The calls of one group on one member: compared first, then carried out, in the order they were
//! issued.

use std::collections::VecDeque;
use std::sync::Arc;

use burn::tensor::{Bytes, DType, TensorData};

use super::super::header::{Header, WORDS, conflict};
use super::super::local::rendezvous::Failure;
use super::super::{Call, CommError, Side};
use super::exchange::{Exchange, Member};
use super::library::{Communicator, Library, Request};
use super::mail::Mail;
use super::operation::Operation;

/// Bytes of the text of a call that is shown to the other members when calls differ.
const TEXT_BYTES: usize = 512;

/// One member's part of a group.
pub(super) struct Group {
    pub(super) name: String,
    pub(super) members: Vec<usize>,
    pub(super) labels: Arc<[String]>,
    pub(super) member: Member,
    pub(super) failure: Option<Failure>,
    pub(super) mail: Mail,
    /// Where headers meet.
    calls: Communicator,
    /// Where tensors move.
    data: Communicator,
    /// Sequence number of the front of `slots`.
    first: u64,
    slots: VecDeque<Slot>,
}

/// One call, from its header to its result.
struct Slot {
    call: Call,
    input: Option<TensorData>,
    stage: Stage,
    is_released: bool,
}

enum Stage {
    /// The headers of all members are on their way.
    Asking(Request),
    /// All members make this call, over tensors of this shape and type.
    Agreed((Vec<usize>, DType)),
    /// Two members differ; what each called is on its way, once it is this call's turn.
    Differing((usize, usize), Option<Request>),
    Moving(Box<Exchange>),
    Done(Option<TensorData>),
    /// Something failed; the group's failure says what.
    Broken,
}

/// Where a call stands, as its caller sees it.
pub(super) enum Standing {
    /// Members have not come.
    Open,
    /// All have come.
    Arrived,
    Done(Option<TensorData>),
}

impl Group {
    pub(super) fn new(
        name: String,
        members: Vec<usize>,
        member: Member,
        calls: Communicator,
        data: Communicator,
    ) -> Self {
        let labels = members.iter().map(|rank| format!("rank {rank}")).collect();
        Self {
            name,
            members,
            labels,
            member,
            failure: None,
            mail: Mail::default(),
            calls,
            data,
            first: 0,
            slots: VecDeque::new(),
        }
    }

    /// Returns the number of calls this member has issued.
    pub(super) fn issued(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    /// Enters this member's next call and returns its sequence number.
    pub(super) fn issue(
        &mut self,
        library: &mut Library,
        call: Call,
        input: Option<TensorData>,
    ) -> Result<u64, CommError> {
        let sequence = self.issued();
        let failed = |message: String| self.library_failed(sequence, &call.to_string(), message);
        let header = Header::new(&call)
            .ok_or_else(|| failed("tensors of more than 8 dimensions do not travel".into()))?;
        let operation = Operation::AllGather { count: WORDS };
        let send = Some(header.to_data().into_bytes());
        let received = Some(WORDS * self.members.len());
        let asked = Request::start(library, &self.calls, &operation, send, received, DType::U64);
        let stage = Stage::Asking(asked.map_err(failed)?);
        self.slots.push_back(Slot { call, input, stage, is_released: false });
        Ok(sequence)
    }

    /// Carries everything forward; returns true if something is under way.
    pub(super) fn advance(&mut self, library: &mut Library) -> bool {
        if self.failure.is_some() {
            return false;
        }
        if let Err(message) = self.mail.advance(library, &self.data, &self.members) {
            self.failure =
                Some(Failure::Error(self.library_failed(self.issued(), "send or recv", message)));
        }
        // MPI wants operations started in one order on all members, which is that of the calls.
        let mut is_turn = true;
        for index in 0..self.slots.len() {
            match self.advance_slot(library, index, is_turn) {
                Ok(next) => is_turn = next,
                Err(error) => {
                    self.failure.get_or_insert(Failure::Error(error));
                    return false;
                }
            }
        }
        self.forget();
        self.mail.is_busy() || self.slots.iter().any(|slot| !matches!(slot.stage, Stage::Done(_)))
    }

    /// Carries one call forward; returns true if later calls may start to move.
    fn advance_slot(
        &mut self,
        library: &mut Library,
        index: usize,
        is_turn: bool,
    ) -> Result<bool, CommError> {
        let sequence = self.first + index as u64;
        let text = self.slots[index].call.to_string();
        let stage = std::mem::replace(&mut self.slots[index].stage, Stage::Broken);
        let moved = self.next_stage(library, index, stage, is_turn);
        let stage = moved.map_err(|message| self.library_failed(sequence, &text, message))?;
        let stage = match stage {
            Stage::Differing(pair, Some(request)) if request.is_done() => {
                return Err(self.mismatch(sequence, pair, request));
            }
            other => other,
        };
        let goes_on = match &stage {
            Stage::Done(_) => is_turn,
            Stage::Moving(exchange) => is_turn && !exchange.has_more_to_start(),
            _ => false,
        };
        self.slots[index].stage = stage;
        Ok(goes_on)
    }

    fn next_stage(
        &mut self,
        library: &mut Library,
        index: usize,
        mut stage: Stage,
        is_turn: bool,
    ) -> Result<Stage, String> {
        let slot = &mut self.slots[index];
        if let Stage::Asking(request) = &mut stage {
            if !request.test(library)? {
                return Ok(stage);
            }
            let Stage::Asking(request) = stage else { unreachable!("matched above") };
            stage = compare(request, self.members.len());
        }
        if !is_turn {
            return Ok(stage);
        }
        match stage {
            Stage::Agreed(kind) => {
                let (collective, input) = (slot.call.collective, slot.input.take());
                let moving =
                    Exchange::start(library, &self.data, collective, kind, input, self.member)?;
                finished(Box::new(moving), library, &self.data)
            }
            Stage::Moving(moving) => finished(moving, library, &self.data),
            Stage::Differing(pair, None) => {
                let text = padded(&slot.call.to_string());
                let (operation, received) =
                    (Operation::AllGather { count: TEXT_BYTES }, TEXT_BYTES * self.members.len());
                let send = Some(text);
                let request = Request::start(
                    library,
                    &self.data,
                    &operation,
                    send,
                    Some(received),
                    DType::U8,
                )?;
                Ok(Stage::Differing(pair, Some(request)))
            }
            Stage::Differing(pair, Some(mut request)) => {
                request.test(library)?;
                Ok(Stage::Differing(pair, Some(request)))
            }
            other => Ok(other),
        }
    }

    /// Tells where a call stands; a result is handed out once.
    pub(super) fn standing(&mut self, sequence: u64) -> Standing {
        let slot = &mut self.slots[(sequence - self.first) as usize];
        match &mut slot.stage {
            Stage::Asking(_) | Stage::Broken => Standing::Open,
            Stage::Done(result) => {
                let result = result.take();
                slot.is_released = true;
                self.forget();
                Standing::Done(result)
            }
            _ => Standing::Arrived,
        }
    }

    /// Gives up the result of a call.
    pub(super) fn abandon(&mut self, sequence: u64) {
        // A group that failed may have dropped what came before it was given up.
        if let Some(index) = sequence.checked_sub(self.first)
            && let Some(slot) = self.slots.get_mut(index as usize)
        {
            slot.is_released = true;
            self.forget();
        }
    }

    /// Returns what was called under a number, and where.
    pub(super) fn text(&self, sequence: u64) -> String {
        let slot = sequence.checked_sub(self.first).and_then(|i| self.slots.get(i as usize));
        slot.map_or_else(String::new, |slot| slot.call.to_string())
    }

    /// Starts to send a tensor to a member.
    pub(super) fn send(
        &mut self,
        library: &mut Library,
        data: TensorData,
        to: usize,
        tag: u64,
    ) -> Result<(), CommError> {
        let sent = self.mail.send(library, &self.data, data, to, tag);
        sent.map_err(|message| {
            let during = format!("send to {}", self.labels[to]);
            self.library_failed(self.issued(), &during, message)
        })
    }

    fn forget(&mut self) {
        let is_over = |slot: &Slot| slot.is_released && matches!(slot.stage, Stage::Done(_));
        while self.slots.front().is_some_and(is_over) {
            self.slots.pop_front();
            self.first += 1;
        }
    }

    fn mismatch(&self, sequence: u64, pair: (usize, usize), request: Request) -> CommError {
        let length = TEXT_BYTES * self.members.len();
        let texts = request.into_received(vec![length], DType::U8);
        let texts = texts.map_or_else(Vec::new, |texts| texts.into_bytes().to_vec());
        let side = |member: usize| {
            let text = texts.chunks(TEXT_BYTES).nth(member).unwrap_or_default();
            let call = String::from_utf8_lossy(text).trim_end().to_owned();
            Box::new(Side { member: self.labels[member].clone(), call })
        };
        let (first, second) = (side(pair.0), side(pair.1));
        CommError::Mismatch { group: self.name.clone(), sequence, first, second }
    }

    fn library_failed(&self, sequence: u64, call: &str, message: String) -> CommError {
        let (group, during) = (self.name.clone(), format!("call {sequence}, {call},"));
        CommError::Library { group, library: "MPI", during, message }
    }
}

/// Compares the headers that have come.
fn compare(request: Request, members: usize) -> Stage {
    let words = request.into_received(vec![WORDS * members], DType::U64);
    let words = words.expect("headers are received");
    let headers = Header::read_all(words.as_slice().expect("received as words"));
    if let Some(pair) = conflict(&headers) {
        return Stage::Differing(pair, None);
    }
    let kind = headers.iter().find_map(Header::input);
    Stage::Agreed(kind.unwrap_or((Vec::new(), DType::U8)))
}

fn finished(
    mut moving: Box<Exchange>,
    library: &mut Library,
    on: &Communicator,
) -> Result<Stage, String> {
    let is_done = moving.advance(library, on)?;
    Ok(if is_done { Stage::Done(moving.into_result()) } else { Stage::Moving(moving) })
}

/// Cuts or fills a text to the length that travels.
fn padded(text: &str) -> Bytes {
    let mut bytes = text.as_bytes().to_vec();
    bytes.resize(TEXT_BYTES, b' ');
    Bytes::from_bytes_vec(bytes)
}
