//! Collectives of tensors, wherever they live.

use std::panic::Location;

use burn::tensor::{Device, TensorData};

use super::work::{InFlight, Work};
use super::{Call, Collective, CommError, Erased, ProcessGroup};

/// Stands for a collective of device tensors under way. Dropping it gives up the result but not the
/// part of this rank in it.
pub trait PendingTensor: std::fmt::Debug + Send {
    /// Waits for the end of the operation and returns the tensor this member gets, if it gets one.
    ///
    /// Where the device has a queue of its own, the result may still be computed: what is queued
    /// after this call runs after it.
    ///
    /// # Errors
    ///
    /// The group failed, or members did not come in time.
    fn wait(self: Box<Self>) -> Result<Option<Erased>, CommError>;
}

/// Moves plain tensors of a device between the members of a group without passing through the host.
pub trait DeviceTransport {
    /// Starts a collective and returns without waiting for other members.
    ///
    /// The group has checked the call alone; comparing it with the other members' is the backend's
    /// part. What is queued for the input runs first, on the calling thread.
    ///
    /// # Errors
    ///
    /// The group failed, or this call differs from another member's.
    fn issue_tensor(
        &self,
        call: Call,
        input: Option<Erased>,
        device: &Device,
    ) -> Result<Box<dyn PendingTensor>, CommError>;
}

/// Stands for a collective of tensors that was issued and whose result is still to come.
#[derive(Debug)]
#[must_use = "the result of a collective is only there after `wait`"]
pub(crate) struct TensorWork {
    state: State,
    device: Device,
}

#[derive(Debug)]
enum State {
    Done(Option<Erased>),
    Host(Work<Option<TensorData>>),
    Device(Box<dyn PendingTensor>, InFlight),
}

impl TensorWork {
    /// Waits and returns what this member gets, if it gets something.
    pub(crate) fn wait_any(self) -> Result<Option<Erased>, CommError> {
        Ok(match self.state {
            State::Done(result) => result,
            State::Host(work) => work.wait()?.map(|data| Erased::from_data(data, &self.device)),
            State::Device(pending, in_flight) => in_flight.watch(|| pending.wait())?,
        })
    }

    /// Waits for an operation that gives every member a tensor.
    pub(crate) fn wait(self) -> Result<Erased, CommError> {
        let result = self.wait_any()?;
        Ok(result.expect("the operation returns a tensor on every member"))
    }
}

impl ProcessGroup {
    /// Issues a collective of plain tensors; `device` is where the result goes.
    ///
    /// Tensors in host memory travel as host data. Those of a device stay there if the transport
    /// can move them ([`Transport::device`](super::Transport::device)); otherwise they are read,
    /// travel as host data and are written back.
    #[track_caller]
    pub(crate) fn issue_tensor(
        &self,
        collective: Collective,
        input: Option<Erased>,
        device: &Device,
    ) -> Result<TensorWork, CommError> {
        let site = Location::caller();
        let device = device.clone().inner();
        let state = match self.transport().device() {
            Some(transport) if !crate::backend::is_host(&device) => {
                let shape = input.as_ref().map(|input| (input.shape(), input.dtype()));
                let call = self.admit(Call::of(collective, shape, site).on_device())?;
                if self.size() == 1 {
                    State::Done(input)
                } else {
                    let in_flight = self.in_flight(&call);
                    State::Device(transport.issue_tensor(call, input, &device)?, in_flight)
                }
            }
            _ if self.size() == 1 => {
                let shape = input.as_ref().map(|input| (input.shape(), input.dtype()));
                self.admit(Call::of(collective, shape, site))?;
                State::Done(input)
            }
            _ => State::Host(self.issue(collective, input.map(Erased::into_data), site)?),
        };
        Ok(TensorWork { state, device })
    }

    /// Issues a collective to which this member gives a tensor.
    #[track_caller]
    pub(crate) fn issue_with(
        &self,
        collective: Collective,
        input: Erased,
    ) -> Result<TensorWork, CommError> {
        let device = input.device();
        self.issue_tensor(collective, Some(input), &device)
    }
}
