//! How a unit's steps are recorded on the tape, and what each does in the backward pass.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::retro_forward::RetroForward;
use burn::backend::autodiff::checkpoint::state::BackwardStates;
use burn::backend::autodiff::checkpoint::strategy::{BalancedCheckpointing, CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, TensorMetadata};
use burn::tensor::{DType, Shape};

use super::Erased;
use super::tape::{Emission, SharedStep, Source, TapeOps, Tie};
use crate::comm::Bridge;

/// Makes the value of a token, which nothing reads.
fn token<B: Backend>(like: &FloatTensor<B>) -> FloatTensor<B> {
    B::float_zeros([1].into(), &like.device(), like.dtype().into())
}

impl<B: TapeOps + Bridge, C: CheckpointStrategy> TapeOps for Autodiff<B, C> {
    fn segment(parent: FloatTensor<Self>, tie: Tie, step: SharedStep) -> FloatTensor<Self> {
        let _ = tie.place.set(parent.id());
        let output = token::<B>(parent.primitive());
        match SegmentBackward.prepare::<C>([parent.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(step, output),
            OpsKind::UnTracked(prep) => prep.finish(output),
        }
    }

    fn tie(token: FloatTensor<Self>, parent: FloatTensor<Self>, tie: Tie) -> FloatTensor<Self> {
        let _ = tie.place.set(parent.id());
        let nodes = [token.node(), parent.node()];
        match TieBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let like = parent.primitive();
                let state = TieState::<B> {
                    tie,
                    shape: like.shape(),
                    dtype: like.dtype(),
                    device: like.device(),
                };
                prep.finish(state, token.into_primitive())
            }
            OpsKind::UnTracked(prep) => prep.finish(token.into_primitive()),
        }
    }

    fn emit(
        token: FloatTensor<Self>,
        value: FloatTensor<Self>,
        emission: Emission,
    ) -> FloatTensor<Self> {
        // Balanced whatever strategy the device has: consumers then keep the recipe and not the
        // value.
        let prepare = EmitBackward.prepare::<BalancedCheckpointing>([token.node()]);
        let kind = match emission.source.clone() {
            Some((source, index)) => {
                let retro =
                    RetroValue::<B> { token: token.id(), source, index, backend: PhantomData };
                prepare.memory_bound().retro_forward(retro).parents([&token]).stateful()
            }
            None => prepare.compute_bound().stateful(),
        };
        match kind {
            OpsKind::Tracked(prep) => prep.finish(emission, value.into_primitive()),
            OpsKind::UnTracked(prep) => prep.finish(value.into_primitive()),
        }
    }

    fn pass(
        token: FloatTensor<Self>,
        input: FloatTensor<Self>,
        used: Arc<AtomicBool>,
    ) -> FloatTensor<Self> {
        let nodes = [token.node(), input.node()];
        match PassBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(used, input.into_primitive()),
            OpsKind::UnTracked(prep) => prep.finish(input.into_primitive()),
        }
    }

    fn inject(output: FloatTensor<Self>, gradient: Erased) -> FloatTensor<Self> {
        let value = token::<B>(output.primitive());
        match InjectBackward.prepare::<C>([output.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(gradient, value),
            OpsKind::UnTracked(prep) => prep.finish(value),
        }
    }
}

#[derive(Debug)]
struct SegmentBackward;

impl<B: Bridge> Backward<B, 1> for SegmentBackward {
    type State = SharedStep;

    fn backward(self, ops: Ops<SharedStep, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        ops.state.0.run(&mut |place, gradient| {
            if let Some(node) = place.get() {
                gradient.register(*node, grads);
            }
        });
    }
}

#[derive(Debug)]
struct TieBackward;

/// What is needed to give the parent a gradient of zero.
#[derive(Debug, Clone)]
struct TieState<B: Backend> {
    tie: Tie,
    shape: Shape,
    dtype: DType,
    device: B::Device,
}

impl<B: Backend> Backward<B, 2> for TieBackward {
    type State = TieState<B>;

    fn backward(self, ops: Ops<TieState<B>, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let TieState { tie, shape, dtype, device } = ops.state;
        let [_, parent] = ops.parents;
        // A parent that is on the tape only because of this tie would otherwise wait for a gradient
        // in vain.
        if let (Some(parent), Some(used)) = (parent, tie.used)
            && !used.load(Ordering::Relaxed)
        {
            grads.register::<B>(parent.id, B::float_zeros(shape, &device, dtype.into()));
        }
    }
}

#[derive(Debug)]
struct EmitBackward;

impl<B: Bridge> Backward<B, 1> for EmitBackward {
    type State = Emission;

    fn backward(self, ops: Ops<Emission, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        ops.state.gradient.put(B::up(grads.consume::<B>(&ops.node)));
    }
}

struct RetroValue<B> {
    token: NodeId,
    source: Arc<dyn Source>,
    index: usize,
    backend: PhantomData<fn() -> B>,
}

impl<B> fmt::Debug for RetroValue<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetroValue").field("index", &self.index).finish_non_exhaustive()
    }
}

impl<B: Bridge> RetroForward for RetroValue<B> {
    fn forward(&self, states: &mut BackwardStates, out: NodeId) {
        // Read and dropped: every parent that was listed has to be asked for.
        let _token = states.get_state::<B::FloatTensorPrimitive>(&self.token);
        states.save(out, B::down(self.source.value(self.index)));
    }
}

#[derive(Debug)]
struct PassBackward;

impl<B: Backend> Backward<B, 2> for PassBackward {
    type State = Arc<AtomicBool>;

    fn backward(self, ops: Ops<Arc<AtomicBool>, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let [_, input] = ops.parents;
        if let Some(input) = input {
            ops.state.store(true, Ordering::Relaxed);
            grads.register::<B>(input.id, gradient);
        }
    }
}

#[derive(Debug)]
struct InjectBackward;

impl<B: Bridge> Backward<B, 1> for InjectBackward {
    type State = Erased;

    fn backward(self, ops: Ops<Erased, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [parent] = ops.parents;
        if let Some(parent) = parent {
            grads.register::<B>(parent.id, B::down(ops.state));
        }
    }
}
