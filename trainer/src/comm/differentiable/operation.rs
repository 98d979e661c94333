//! The seam to Burn: one operation for every collective, and its backward.
//!
//! [`TransferOps`] is implemented once per backend for the forward direction, and once for autodiff
//! over any backend that has it: the backward of a pair is the pair with its directions swapped. A
//! further backend is one more short `impl`.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Slice, Tensor};
use burn_flex::FlexTensor;

use super::issued::Arrival;
use super::transfer::{Transfer, raise};
use crate::comm::ProcessGroup;
use crate::mesh::shard_range;

/// A map over the ranks of a group and its adjoint.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    pub(crate) forward: Transfer,
    pub(crate) backward: Transfer,
    pub(crate) group: ProcessGroup,
}

impl Pair {
    fn adjoint(self) -> Self {
        Self { forward: self.backward, backward: self.forward, group: self.group }
    }
}

/// Applies a [`Pair`] to a float tensor of a backend.
#[backend_extension(Flex, Autodiff)]
pub(crate) trait TransferOps: Backend {
    /// Runs the forward direction; under autodiff, records the backward one.
    fn transfer(value: FloatTensor<Self>, pair: Pair) -> FloatTensor<Self>;

    /// Takes the result of a forward direction that was issued before; under autodiff, records the
    /// backward one.
    fn arrive(value: FloatTensor<Self>, pair: Pair, arrival: Arrival) -> FloatTensor<Self>;
}

/// Applies a pair to the user's tensor.
pub(super) fn apply<const D: usize>(value: Tensor<D>, pair: Pair) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as TransferOps>::transfer(value.into_dispatch(), pair))
}

/// Waits for an issued pair.
pub(super) fn finish<const D: usize>(value: Tensor<D>, pair: Pair, arrival: Arrival) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as TransferOps>::arrive(value.into_dispatch(), pair, arrival))
}

impl TransferOps for Flex {
    fn transfer(value: FlexTensor, Pair { forward, group, .. }: Pair) -> FlexTensor {
        match forward {
            Transfer::Keep => value,
            Transfer::KeepOnFirst if group.rank() == 0 => value,
            Transfer::KeepOnFirst => FlexTensor::zeros(value.shape(), value.dtype()),
            Transfer::Slice(dim) => {
                let slices = part(value.shape().as_slice(), dim, value.shape()[dim], &group);
                Self::float_slice(value, &slices)
            }
            Transfer::Pad(dim) => {
                let mut shape = value.shape();
                shape[dim] *= group.size();
                let slices = part(shape.as_slice(), dim, shape[dim], &group);
                let zeros = FlexTensor::zeros(shape, value.dtype());
                Self::float_slice_assign(zeros, &slices, value)
            }
            _ => match forward.communicate(value.into_data(), &group) {
                Ok(data) => FlexTensor::from_data(data),
                Err(error) => raise(error),
            },
        }
    }

    fn arrive(_: FlexTensor, _: Pair, arrival: Arrival) -> FlexTensor {
        let work = arrival.take().expect("an issued operation is waited for once");
        match work.wait() {
            Ok(data) => FlexTensor::from_data(data),
            Err(error) => raise(error),
        }
    }
}

/// Selects the own part of a dimension of `len` elements.
fn part(shape: &[usize], dim: usize, len: usize, group: &ProcessGroup) -> Vec<Slice> {
    let own = shard_range(len, group.size(), group.rank());
    let select = |(index, len): (usize, &usize)| {
        if index == dim { own.clone().into() } else { (0..*len).into() }
    };
    shape.iter().enumerate().map(select).collect()
}

#[derive(Debug)]
struct TransferBackward;

impl<B: TransferOps> Backward<B, 1> for TransferBackward {
    type State = Pair;

    fn backward(self, ops: Ops<Pair, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [parent] = ops.parents;
        let gradient = grads.consume::<B>(&ops.node);
        if let Some(parent) = parent {
            grads.register::<B>(parent.id, B::transfer(gradient, ops.state.adjoint()));
        }
    }
}

impl<B: TransferOps, C: CheckpointStrategy> TransferOps for Autodiff<B, C> {
    fn transfer(value: FloatTensor<Self>, pair: Pair) -> FloatTensor<Self> {
        match TransferBackward.prepare::<C>([value.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                prep.finish(pair.clone(), B::transfer(value.into_primitive(), pair))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::transfer(value.into_primitive(), pair)),
        }
    }
    fn arrive(value: FloatTensor<Self>, pair: Pair, arrival: Arrival) -> FloatTensor<Self> {
        match TransferBackward.prepare::<C>([value.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                prep.finish(pair.clone(), B::arrive(value.into_primitive(), pair, arrival))
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(B::arrive(value.into_primitive(), pair, arrival))
            }
        }
    }
}
