//! Tensors from member to member: a message with tag, shape and type, then one with the elements.
//!
//! MPI's own tags are small numbers and its receives want a size, so the receiver takes in what
//! comes, in the order in which a member sent it, and sorts it by tag in a
//! [`Mailbox`](super::super::local::mailbox::Mailbox).

use std::collections::VecDeque;

use burn::tensor::{DType, TensorData};

use super::super::header::{decode_type, encode_type};
use super::super::local::mailbox::{Channel, Mailbox};
use super::library::{Communicator, Library, Request};
use super::operation::Operation;

const ADDRESS: i32 = 1;
const ELEMENTS: i32 = 2;
/// Words before the elements: the tag, then type and shape.
const WORDS: usize = 11;

/// What one member of a group sends and receives.
#[derive(Default)]
pub(super) struct Mail {
    pub(super) box_: Mailbox,
    /// Whether this member has ever asked for a tensor; before, what comes stays with MPI.
    is_open: bool,
    sending: Vec<Request>,
    /// The next message, of which only the first part is on its way.
    address: Option<(usize, Request)>,
    /// Messages whose elements are on their way, in the order of their first parts.
    elements: VecDeque<Parcel>,
}

struct Parcel {
    channel: Channel,
    shape: Vec<usize>,
    dtype: DType,
    /// Absent for a tensor without elements.
    request: Option<Request>,
}

impl Mail {
    /// Starts to send a tensor to member `to`.
    pub(super) fn send(
        &mut self,
        library: &mut Library,
        on: &Communicator,
        data: TensorData,
        to: usize,
        tag: u64,
    ) -> Result<(), String> {
        let (shape, dtype) = (data.shape().to_vec(), data.dtype());
        let kind = encode_type(&shape, dtype).ok_or("tensors of this kind do not travel")?;
        let words = TensorData::new([&[tag][..], &kind].concat(), [WORDS]);
        let address = Operation::Send { to, tag: ADDRESS };
        let words = Some(words.into_bytes());
        self.sending.push(Request::start(library, on, &address, words, None, DType::U64)?);
        if data.num_elements() > 0 {
            let elements = Operation::Send { to, tag: ELEMENTS };
            let bytes = Some(data.into_bytes());
            self.sending.push(Request::start(library, on, &elements, bytes, None, dtype)?);
        }
        Ok(())
    }

    /// Posts a receive and returns its number on the channel.
    pub(super) fn post(&mut self, channel: Channel) -> u64 {
        self.is_open = true;
        self.box_.post(channel)
    }

    /// Tells whether something is on its way.
    pub(super) fn is_busy(&self) -> bool {
        !self.sending.is_empty() || self.address.is_some() || !self.elements.is_empty()
    }

    /// Carries everything forward.
    pub(super) fn advance(
        &mut self,
        library: &mut Library,
        on: &Communicator,
        members: &[usize],
    ) -> Result<(), String> {
        let mut still = Vec::new();
        for mut request in self.sending.drain(..) {
            if !request.test(library)? {
                still.push(request);
            }
        }
        self.sending = still;
        while self.is_open && self.take_in(library, on, members.len())? {}
        while let Some(parcel) = self.elements.front_mut() {
            if let Some(request) = &mut parcel.request
                && !request.test(library)?
            {
                break;
            }
            let Some(Parcel { channel, shape, dtype, request }) = self.elements.pop_front() else {
                break;
            };
            let empty = || TensorData::from_bytes_vec(Vec::new(), shape.clone(), dtype);
            let received = request.and_then(|request| request.into_received(shape.clone(), dtype));
            self.box_.put(channel, received.unwrap_or_else(empty));
        }
        Ok(())
    }

    /// Takes in one more first part, and asks for its elements; returns true if there may be more.
    fn take_in(
        &mut self,
        library: &mut Library,
        on: &Communicator,
        members: usize,
    ) -> Result<bool, String> {
        if self.address.is_none()
            && let Some((from, _)) = on.probe(library, ADDRESS)?
        {
            let operation = Operation::Receive { from, tag: ADDRESS };
            let words = Request::start(library, on, &operation, None, Some(WORDS), DType::U64)?;
            self.address = Some((from, words));
        }
        let Some((from, mut request)) = self.address.take() else { return Ok(false) };
        if !request.test(library)? {
            self.address = Some((from, request));
            return Ok(false);
        }
        let words = request.into_received(vec![WORDS], DType::U64);
        let words = words.as_ref().and_then(|words| words.as_slice::<u64>().ok());
        let words = words.ok_or("a message without an address")?;
        let kind = decode_type(&words[1..]).filter(|_| from < members);
        let (shape, dtype) = kind.ok_or("a message of a kind that is not known")?;
        let count: usize = shape.iter().product();
        let operation = Operation::Receive { from, tag: ELEMENTS };
        let request = (count > 0)
            .then(|| Request::start(library, on, &operation, None, Some(count), dtype))
            .transpose()?;
        let channel = Channel { from, to: 0, tag: words[0] };
        self.elements.push_back(Parcel { channel, shape, dtype, request });
        Ok(true)
    }
}
