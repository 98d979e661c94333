//! One direction of a collective on host data, and what happens when it fails.

use burn::tensor::{DType, TensorData};

use crate::comm::{CommError, ProcessGroup, ReduceOp};

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
    /// Moves host data; the variants without communication are not among those that come here.
    pub(super) fn communicate(
        self,
        data: TensorData,
        group: &ProcessGroup,
    ) -> Result<TensorData, CommError> {
        match self {
            Self::Sum => group.all_reduce(data, ReduceOp::Sum),
            Self::Gather(dim) => group.all_gather(data, dim),
            Self::SumScatter(dim) => group.reduce_scatter(data, dim, ReduceOp::Sum),
            Self::Exchange(split, concat) => group.all_to_all(data, split, concat),
            Self::Broadcast(root) => group.broadcast(data, root),
            Self::Reduce(root) => {
                let (shape, dtype) = (data.shape().to_vec(), data.dtype());
                Ok(group.reduce(data, root, ReduceOp::Sum)?.unwrap_or_else(|| zeros(shape, dtype)))
            }
            Self::Scatter(root) => group.scatter((group.rank() == root).then_some(data), root),
            Self::Collect(root) => {
                let nothing = nothing_of(&data);
                Ok(group.gather(data, root)?.unwrap_or(nothing))
            }
            Self::Send(to, tag) => {
                let nothing = nothing_of(&data);
                group.send(data, to, tag).map(|()| nothing)
            }
            Self::Receive(from, tag) => group.recv(from, tag),
            Self::Keep | Self::KeepOnFirst | Self::Slice(_) | Self::Pad(_) => Ok(data),
        }
    }
}

/// Returns an empty tensor with the dimensions of another, the first of them zero.
fn nothing_of(data: &TensorData) -> TensorData {
    let mut shape = data.shape().to_vec();
    if let Some(first) = shape.first_mut() {
        *first = 0;
    }
    zeros(shape, data.dtype())
}

fn zeros(shape: Vec<usize>, dtype: DType) -> TensorData {
    let bytes = vec![0; shape.iter().product::<usize>() * dtype.size()];
    TensorData::from_bytes_vec(bytes, shape, dtype)
}
