//! The seam to Burn: one operation for every collective, and its backward.
//!
//! [`TransferOps`] is implemented once for the forward direction on any backend with a [`Bridge`],
//! and once for autodiff over any of them: the backward of a pair is the pair with its directions
//! swapped. A fused backend runs what is queued for a tensor when the operation is called, so that
//! every rank communicates in the order of its program.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, backend_extension};
use burn::tensor::Tensor;

use super::issued::Arrival;
use super::transfer::{Transfer, raise};
use crate::comm::{Bridge, ProcessGroup};

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
#[backend_extension(Flex, Cube: cfg(feature = "cube"), Autodiff)]
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

impl<B: Bridge> TransferOps for B {
    fn transfer(value: FloatTensor<Self>, Pair { forward, group, .. }: Pair) -> FloatTensor<Self> {
        match forward.carry(B::up(value), &group) {
            Ok(value) => B::down(value),
            Err(error) => raise(error),
        }
    }

    fn arrive(_: FloatTensor<Self>, _: Pair, arrival: Arrival) -> FloatTensor<Self> {
        let work = arrival.take().expect("an issued operation is waited for once");
        match work.wait() {
            Ok(value) => B::down(value),
            Err(error) => raise(error),
        }
    }
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
