//! One direction of a collective, and what happens when it fails.

use crate::comm::{Collective, CommError, Erased, ProcessGroup, ReduceOp};
use crate::mesh::shard_range;

/// Raises a communication error where none can be returned, such as inside a backward pass.
///
/// # Panics
///
/// Always, with the error as payload.
pub fn raise(error: CommError) -> ! {
    std::panic::panic_any(error)
}

/// Names one direction of a differentiable collective.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transfer {
    /// Keeps the value.
    Keep,
    /// Keeps the value on the first member and makes it zero elsewhere: a term whose sum is the
    /// value.
    KeepOnFirst,
    /// Sums over the members.
    Sum,
    /// Concatenates along a dimension.
    Gather(usize),
    /// Sums, and keeps the own part along a dimension.
    SumScatter(usize),
    /// Splits along the first dimension and concatenates along the second.
    Exchange(usize, usize),
    /// Keeps the own part along a dimension.
    Slice(usize),
    /// Places the own part along a dimension among zeros.
    Pad(usize),
    /// Takes the value of a member.
    Broadcast(usize),
    /// Sums on a member; zeros elsewhere.
    Reduce(usize),
    /// Takes the own part of a member's value along dimension 0.
    Scatter(usize),
    /// Concatenates along dimension 0 on a member; nothing elsewhere.
    Collect(usize),
    /// Hands the value to a member; nothing stays.
    Send(usize, u64),
    /// Takes a value from a member.
    Receive(usize, u64),
}

impl Transfer {
    /// Takes a plain tensor in this direction.
    pub(super) fn carry(self, value: Erased, group: &ProcessGroup) -> Result<Erased, CommError> {
        let (n, rank) = (group.size(), group.rank());
        let call = |collective, value| group.issue_with(collective, value)?.wait();
        match self {
            Self::Keep => Ok(value),
            Self::KeepOnFirst if rank == 0 => Ok(value),
            Self::KeepOnFirst => Ok(value.zeros_like()),
            Self::Slice(dim) => {
                let own = shard_range(value.shape()[dim], n, rank);
                Ok(value.narrow(dim, own.start, own.len()))
            }
            Self::Pad(dim) => {
                let whole = value.shape()[dim] * n;
                let own = shard_range(whole, n, rank);
                Ok(value.place(dim, own.start, whole))
            }
            Self::Sum => call(Collective::AllReduce { op: ReduceOp::Sum }, value),
            Self::Gather(dim) => call(Collective::AllGather { dim }, value),
            Self::SumScatter(dim) => {
                call(Collective::ReduceScatter { dim, op: ReduceOp::Sum }, value)
            }
            Self::Exchange(split_dim, concat_dim) => {
                call(Collective::AllToAll { split_dim, concat_dim }, value)
            }
            Self::Broadcast(root) => call(Collective::Broadcast { root }, value),
            _ => self.rooted(value, group),
        }
    }

    /// Takes a tensor in a direction whose members get different things, or none.
    fn rooted(self, value: Erased, group: &ProcessGroup) -> Result<Erased, CommError> {
        let (shape, dtype, device) = (value.shape(), value.dtype(), value.device());
        let zeros = |shape| Erased::zeros(shape, dtype, &device);
        match self {
            Self::Reduce(root) => {
                let collective = Collective::Reduce { root, op: ReduceOp::Sum };
                let reduced = group.issue_with(collective, value)?.wait_any()?;
                Ok(reduced.unwrap_or_else(|| zeros(shape)))
            }
            Self::Scatter(root) => {
                let input = (group.rank() == root).then_some(value);
                group.issue_tensor(Collective::Scatter { root }, input, &device)?.wait()
            }
            Self::Collect(root) => {
                let gathered = group.issue_with(Collective::Gather { root }, value)?.wait_any()?;
                Ok(gathered.unwrap_or_else(|| zeros(none_of(shape))))
            }
            Self::Send(to, tag) => {
                group.send(value.into_data(), to, tag)?;
                Ok(zeros(none_of(shape)))
            }
            Self::Receive(from, tag) => Ok(Erased::from_data(group.recv(from, tag)?, &device)),
            _ => Ok(value),
        }
    }
}

/// Returns the dimensions of an empty tensor: the first of them zero.
fn none_of(mut shape: Vec<usize>) -> Vec<usize> {
    if let Some(first) = shape.first_mut() {
        *first = 0;
    }
    shape
}
