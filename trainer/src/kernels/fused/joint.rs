//! Operations of several outputs that share one backward pass.
//!
//! A step of Burn's tape has one output, and a backward pass per output would compute the gradient of a shared input once
//! for each. Here a step without value, the *hub*, holds the operation, and each output is a step of its own on top of it:
//!
//! ```text
//! inputs --> hub --+-- output 0
//!                  +-- output 1
//! ```
//!
//! Backward runs in order of depth. The outputs' steps leave their gradients with the hub, whose step then has all of them.

use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, TensorMetadata};
use burn::tensor::{DType, Device, Shape};
use burn_flex::FlexTensor;

use super::count;
use super::operand::Operand;
use crate::kernels::saved::{self, Keep};

/// Most inputs of an operation: an input and four layers with biases.
pub(crate) const MOST_INPUTS: usize = 9;

/// Computes several outputs of several float inputs, and the inputs' gradients at once, on values `V`.
///
/// On Flex tensors, half-precision inputs are widened before a kernel sees them. Outputs take the element type of the first input.
pub(crate) trait JointKernel<V = FlexTensor>: Clone + fmt::Debug + Send + 'static {
    /// Forward's results that backward needs besides the inputs.
    type Saved: Keep + Clone + fmt::Debug + Send + 'static;

    /// Says which inputs backward reads, given which inputs need gradients.
    fn reads(&self, needs: &[bool]) -> Vec<bool>;

    /// Returns the index of the first weight, which all later inputs are too; weights do not count as saved for the backward
    /// pass.
    fn first_weight(&self) -> usize;

    /// Computes the outputs.
    fn forward(&self, inputs: Vec<V>) -> (Vec<V>, Self::Saved);

    /// Computes the gradients of the inputs that need one; none stands for zeros. An output that took no part in the loss has
    /// no gradient.
    fn backward(
        &self,
        inputs: Vec<Option<V>>,
        saved: Self::Saved,
        grads: Vec<Option<V>>,
        needs: &[bool],
    ) -> Vec<Option<V>>;
}

type Tracked<B, C> = FloatTensor<Autodiff<B, C>>;

/// Records a kernel, whose number of inputs the tape must know when it is compiled.
pub(super) fn record<K: JointKernel<V>, V: Operand<B>, B: Backend, C: CheckpointStrategy>(
    inputs: Vec<Tracked<B, C>>,
    kernel: K,
) -> Vec<Tracked<B, C>> {
    match inputs.len() {
        1 => record_array::<K, V, B, C, 1>(inputs, kernel),
        2 => record_array::<K, V, B, C, 2>(inputs, kernel),
        3 => record_array::<K, V, B, C, 3>(inputs, kernel),
        4 => record_array::<K, V, B, C, 4>(inputs, kernel),
        5 => record_array::<K, V, B, C, 5>(inputs, kernel),
        6 => record_array::<K, V, B, C, 6>(inputs, kernel),
        7 => record_array::<K, V, B, C, 7>(inputs, kernel),
        8 => record_array::<K, V, B, C, 8>(inputs, kernel),
        MOST_INPUTS => record_array::<K, V, B, C, MOST_INPUTS>(inputs, kernel),
        other => unreachable!("no joint operation has {other} inputs"),
    }
}

fn record_array<K, V, B, C, const N: usize>(
    inputs: Vec<Tracked<B, C>>,
    kernel: K,
) -> Vec<Tracked<B, C>>
where
    K: JointKernel<V>,
    V: Operand<B>,
    B: Backend,
    C: CheckpointStrategy,
{
    let inputs: [Tracked<B, C>; N] = inputs.try_into().expect("the number of inputs was matched");
    let needs = inputs.each_ref().map(<Tracked<B, C>>::is_tracked);
    let nodes = inputs.each_ref().map(<Tracked<B, C>>::node);
    let types = inputs.each_ref().map(|input| (input.shape(), input.dtype()));
    let device = V::device(inputs[0].primitive());
    let nothing = nothing::<V, B>(&device);
    let slots = Slots::<V>::default();
    let step = HubBackward::<K, V, N>(PhantomData);
    let (hub, outputs) =
        match Backward::<B, N>::prepare::<C>(step, nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let reads = kernel.reads(&needs);
                let mut kept = [None; N];
                for (slot, (input, read)) in kept.iter_mut().zip(inputs.iter().zip(&reads)) {
                    *slot = read.then(|| prep.checkpoint(input));
                }
                let inputs = primitives::<B, C, N>(inputs);
                let weights = std::array::from_fn::<_, N, _>(|i| i >= kernel.first_weight());
                let inputs_kept =
                    saved::is_measured().then(|| count::<V, B>(&inputs, &reads, &weights));
                let (outputs, saved) = forward::<K, V, B>(&kernel, inputs);
                let counted = inputs_kept.and_then(|inputs| saved::record(inputs, &saved));
                slots.open(outputs.len());
                let slots = slots.clone();
                let state =
                    HubState { kernel, kept, saved, types, device: device.clone(), slots, counted };
                (prep.finish(state, nothing), outputs)
            }
            OpsKind::UnTracked(prep) => {
                let (outputs, _) = forward::<K, V, B>(&kernel, primitives::<B, C, N>(inputs));
                (prep.finish(nothing), outputs)
            }
        };
    let output = |(index, value)| {
        let slot = Slot { slots: slots.clone(), index, device: device.clone() };
        match Backward::<B, 1>::prepare::<C>(OutputBackward::<V>(PhantomData), [hub.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => prep.finish(slot, value),
            OpsKind::UnTracked(prep) => prep.finish(value),
        }
    };
    outputs.into_iter().enumerate().map(output).collect()
}

/// Computes the outputs in their element type.
pub(super) fn forward<K: JointKernel<V>, V: Operand<B>, B: Backend>(
    kernel: &K,
    inputs: Vec<FloatTensor<B>>,
) -> (Vec<FloatTensor<B>>, K::Saved) {
    let dtype = inputs[0].dtype();
    let (outputs, saved) = kernel.forward(inputs.into_iter().map(V::open).collect());
    (outputs.into_iter().map(|output| output.close(dtype)).collect(), saved)
}

fn primitives<B: Backend, C: CheckpointStrategy, const N: usize>(
    inputs: [Tracked<B, C>; N],
) -> Vec<FloatTensor<B>> {
    inputs.into_iter().map(<Tracked<B, C>>::into_primitive).collect()
}

/// The value of a step without one.
fn nothing<V: Operand<B>, B: Backend>(device: &Device) -> FloatTensor<B> {
    V::blank(Shape::from([1]), DType::F32, device).close(DType::F32)
}

/// The gradients that outputs leave for their hub.
#[derive(Debug, Clone)]
struct Slots<V>(Arc<Mutex<Vec<Option<V>>>>);

impl<V> Default for Slots<V> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Vec::new())))
    }
}

impl<V: Clone> Slots<V> {
    fn open(&self, count: usize) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).resize(count, None);
    }

    fn put(&self, index: usize, gradient: V) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[index] = Some(gradient);
    }

    fn take(&self) -> Vec<Option<V>> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[derive(Debug, Clone)]
struct Slot<V> {
    slots: Slots<V>,
    index: usize,
    device: Device,
}

struct OutputBackward<V>(PhantomData<fn() -> V>);

impl<V> fmt::Debug for OutputBackward<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OutputBackward")
    }
}

impl<V: Operand<B>, B: Backend> Backward<B, 1> for OutputBackward<V> {
    type State = Slot<V>;

    fn backward(self, ops: Ops<Slot<V>, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let Slot { slots, index, device } = ops.state;
        slots.put(index, V::open(grads.consume::<B>(&ops.node)));
        let [hub] = ops.parents;
        if let Some(hub) = hub {
            grads.register::<B>(hub.id, nothing::<V, B>(&device));
        }
    }
}

struct HubBackward<K, V, const N: usize>(PhantomData<fn() -> (K, V)>);

impl<K, V, const N: usize> fmt::Debug for HubBackward<K, V, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::any::type_name::<K>())
    }
}

#[derive(Debug, Clone)]
struct HubState<K, V, S, const N: usize> {
    kernel: K,
    kept: [Option<NodeId>; N],
    saved: S,
    /// Shapes and element types of the inputs, which their gradients take.
    types: [(Shape, DType); N],
    device: Device,
    slots: Slots<V>,
    /// Bytes of `saved` that are no tensors, for the ledger.
    counted: Option<Arc<usize>>,
}

impl<K, V, B, const N: usize> Backward<B, N> for HubBackward<K, V, N>
where
    K: JointKernel<V>,
    V: Operand<B>,
    B: Backend,
{
    type State = HubState<K, V, K::Saved, N>;

    fn backward(
        self,
        ops: Ops<Self::State, N>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let _ = grads.consume::<B>(&ops.node);
        let HubState { kernel, kept, saved, types, device, slots, counted: _counted } = ops.state;
        let mut retrieve = |node| checkpointer.retrieve_node_output::<FloatTensor<B>>(node);
        let mut input = |node: Option<NodeId>| node.map(&mut retrieve).map(V::open);
        let inputs = kept.into_iter().map(&mut input).collect();
        let needs = ops.parents.each_ref().map(Option::is_some);
        let results = kernel.backward(inputs, saved, slots.take(), &needs);
        for ((parent, result), (shape, dtype)) in ops.parents.into_iter().zip(results).zip(types) {
            if let Some(parent) = parent {
                // The tape wants a gradient for every parent, also of an output that the loss does not use.
                let result = result.unwrap_or_else(|| V::blank(shape, dtype, &device));
                grads.register::<B>(parent.id, result.close(dtype));
            }
        }
    }
}
