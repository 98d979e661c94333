//! One member's end of a group: the [`Transport`] of thread ranks.

use std::panic::Location;
use std::sync::Arc;

use burn::tensor::{Bytes, Device, TensorData};

use super::super::{
    Call, Collective, CommError, DeviceTransport, Erased, Pending, PendingTensor, Transport,
};
use super::calls::Met;
use super::mailbox::Channel;
use super::rendezvous::{Failure, Rendezvous};
use super::{Input, exchange};

/// Joins one member to its group.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) rendezvous: Arc<Rendezvous>,
    pub(crate) member: usize,
}

impl Transport for Endpoint {
    fn issue(&self, call: Call, input: Option<TensorData>) -> Result<Box<dyn Pending>, CommError> {
        let input = input.map(|data| Input::Host(prepare(data, call.collective)));
        Ok(Box::new(self.enter(call, input)?))
    }

    fn send(&self, data: TensorData, to: usize, tag: u64) -> Result<(), CommError> {
        self.rendezvous.send(Channel { from: self.member, to, tag }, data)
    }

    fn post_receive(
        &self,
        from: usize,
        tag: u64,
        site: &'static Location<'static>,
    ) -> Result<Box<dyn Pending>, CommError> {
        let channel = Channel { from, to: self.member, tag };
        let labels = &self.rendezvous.labels;
        let text = format!(
            "recv on {} of tag {tag} from {} at {}:{}",
            labels[self.member],
            labels[from],
            site.file(),
            site.line()
        );
        let ticket = self.rendezvous.post(channel, &text)?;
        let rendezvous = Arc::clone(&self.rendezvous);
        Ok(Box::new(PendingReceive { rendezvous, channel, ticket, text }))
    }

    fn abort(&self, error: CommError) {
        self.rendezvous.fail(Failure::Error(error));
    }

    fn device(&self) -> Option<&dyn DeviceTransport> {
        Some(self)
    }
}

impl DeviceTransport for Endpoint {
    fn issue_tensor(
        &self,
        call: Call,
        input: Option<Erased>,
        device: &Device,
    ) -> Result<Box<dyn PendingTensor>, CommError> {
        let collective = call.collective;
        let input = input.map(|tensor| Input::Device(tensor.settle()));
        let call = self.enter(call, input)?;
        Ok(Box::new(PendingExchange { call, collective, device: device.clone() }))
    }
}

impl Endpoint {
    fn enter(&self, call: Call, input: Option<Input>) -> Result<PendingCall, CommError> {
        let sequence = self.rendezvous.issue(self.member, call, input)?;
        let rendezvous = Arc::clone(&self.rendezvous);
        Ok(PendingCall { rendezvous, member: self.member, sequence, released: false })
    }
}

/// Makes a buffer fit to be reduced or written over, on the thread of the rank that owns it.
///
/// A reduction needs elements at their alignment, which memory from a file may not have; an
/// operation that writes over its inputs needs memory that nobody else sees, which is copied here
/// if it is shared.
fn prepare(data: TensorData, collective: Collective) -> TensorData {
    let aligned = data.as_bytes().as_ptr().addr().is_multiple_of(data.dtype().size());
    if collective.reduce_op().is_some() && !aligned {
        let (bytes, shape, dtype) = data.into_parts();
        return TensorData::from_bytes(Bytes::from_bytes_vec(bytes.to_vec()), shape, dtype);
    }
    if matches!(
        collective,
        Collective::AllReduce { .. } | Collective::Reduce { .. } | Collective::Broadcast { .. }
    ) {
        let (mut bytes, shape, dtype) = data.into_parts();
        let _: &mut [u8] = &mut bytes;
        return TensorData::from_bytes(bytes, shape, dtype);
    }
    data
}

#[derive(Debug)]
struct PendingCall {
    rendezvous: Arc<Rendezvous>,
    member: usize,
    sequence: u64,
    released: bool,
}

impl PendingCall {
    fn finish(&mut self) -> Result<Met, CommError> {
        let met = self.rendezvous.wait(self.member, self.sequence);
        self.released = met.is_ok();
        met
    }
}

impl Pending for PendingCall {
    fn wait(mut self: Box<Self>) -> Result<Option<TensorData>, CommError> {
        Ok(match self.finish()? {
            Met::Job(job) => job.take(self.member),
            Met::Exchange(_) => unreachable!("members agree on the memory of a call"),
        })
    }
}

#[derive(Debug)]
struct PendingExchange {
    call: PendingCall,
    collective: Collective,
    device: Device,
}

impl PendingTensor for PendingExchange {
    fn wait(mut self: Box<Self>) -> Result<Option<Erased>, CommError> {
        Ok(match self.call.finish()? {
            Met::Exchange(inputs) => {
                exchange::result(self.collective, &inputs, self.call.member, &self.device)
            }
            Met::Job(_) => None,
        })
    }
}

impl Drop for PendingCall {
    fn drop(&mut self) {
        if !self.released {
            self.rendezvous.abandon(self.sequence);
        }
    }
}

#[derive(Debug)]
struct PendingReceive {
    rendezvous: Arc<Rendezvous>,
    channel: Channel,
    ticket: u64,
    text: String,
}

impl Pending for PendingReceive {
    fn wait(self: Box<Self>) -> Result<Option<TensorData>, CommError> {
        self.rendezvous.receive(self.channel, self.ticket, &self.text).map(Some)
    }
}

impl Drop for PendingReceive {
    fn drop(&mut self) {
        self.rendezvous.withdraw(self.channel, self.ticket);
    }
}
