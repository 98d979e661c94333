//! [`Transport`]: what a communication backend offers to a [`ProcessGroup`](super::ProcessGroup).

use std::fmt;
use std::panic::Location;
use std::time::Duration;

use burn::tensor::TensorData;

use super::{Call, CommError, DeviceTransport};

/// Bounds how long a rank waits for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommTimeouts {
    /// For collectives, from the moment a rank waits.
    pub collective: Duration,
    /// For receives, from the moment a rank waits.
    pub receive: Duration,
    /// For processes to meet when they start, and to make their groups.
    pub connect: Duration,
}

impl CommTimeouts {
    /// Returns the same bound for everything.
    pub fn uniform(bound: Duration) -> Self {
        Self { collective: bound, receive: bound, connect: bound }
    }
}

impl Default for CommTimeouts {
    /// Ten minutes: longer than any save, shorter than anyone's patience.
    fn default() -> Self {
        Self::uniform(Duration::from_mins(10))
    }
}

/// Offers one member's end of one group: a backend implements it per group and rank.
///
/// The group has checked a call alone ([`Call::validate`]) before it comes here; comparing it with
/// the other members' calls is the backend's part. Calls of a member take effect in the order they
/// are issued. Ranks are indices in the group.
pub trait Transport: fmt::Debug + Send + Sync {
    /// Starts a collective and returns without waiting for other members.
    ///
    /// # Errors
    ///
    /// The group failed, or this call differs from another member's.
    fn issue(&self, call: Call, input: Option<TensorData>) -> Result<Box<dyn Pending>, CommError>;

    /// Sends a tensor to a member; returns as soon as the buffer is handed over.
    ///
    /// # Errors
    ///
    /// The group failed.
    fn send(&self, data: TensorData, to: usize, tag: u64) -> Result<(), CommError>;

    /// Asks for the next tensor that a member sends under a tag and returns without waiting for it.
    ///
    /// # Errors
    ///
    /// The group failed.
    fn post_receive(
        &self,
        from: usize,
        tag: u64,
        site: &'static Location<'static>,
    ) -> Result<Box<dyn Pending>, CommError>;

    /// Makes every pending and later call of every member fail with `error`.
    fn abort(&self, error: CommError);

    /// Returns what moves device tensors without the host, if the backend can. Without it they
    /// travel as host data.
    fn device(&self) -> Option<&dyn DeviceTransport> {
        None
    }
}

/// Stands for an operation under way. Dropping it gives up the result but not the part of this rank
/// in it.
pub trait Pending: fmt::Debug + Send {
    /// Waits for the end of the operation and returns the tensor this member gets, if it gets one.
    ///
    /// # Errors
    ///
    /// The group failed, or members did not come in time.
    fn wait(self: Box<Self>) -> Result<Option<TensorData>, CommError>;
}
