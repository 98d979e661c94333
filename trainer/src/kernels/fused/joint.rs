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
use burn::backend::{Autodiff, Flex, TensorMetadata};
use burn::tensor::DType;
use burn_flex::FlexTensor;

use super::count;
use crate::kernels::saved::{self, Keep};
use crate::kernels::{flex, half_precision};

/// Most inputs of an operation: an input and four layers with biases.
pub(crate) const MOST_INPUTS: usize = 9;

/// Computes several outputs of several float inputs, and the inputs' gradients at once, on Flex tensors of `f32`.
///
/// Half-precision inputs are widened before a kernel sees them; outputs take the element type of the first input.
pub(crate) trait JointKernel: Clone + fmt::Debug + Send + 'static {
    /// Forward's results that backward needs besides the inputs.
    type Saved: Keep + Clone + fmt::Debug + Send + 'static;

    /// Says which inputs backward reads, given which inputs need gradients.
    fn reads(&self, needs: &[bool]) -> Vec<bool>;

    /// Returns the index of the first weight, which all later inputs are too; weights do not count as saved for the backward
    /// pass.
    fn first_weight(&self) -> usize;

    /// Computes the outputs.
    fn forward(&self, inputs: Vec<FlexTensor>) -> (Vec<FlexTensor>, Self::Saved);

    /// Computes the gradients of the inputs that need one; none stands for zeros. An output that took no part in the loss has
    /// no gradient.
    fn backward(
        &self,
        inputs: Vec<Option<FlexTensor>>,
        saved: Self::Saved,
        grads: Vec<Option<FlexTensor>>,
        needs: &[bool],
    ) -> Vec<Option<FlexTensor>>;
}

type Tracked<C> = FloatTensor<Autodiff<Flex, C>>;

/// Records a kernel, whose number of inputs the tape must know when it is compiled.
pub(super) fn record<K: JointKernel, C: CheckpointStrategy>(
    inputs: Vec<Tracked<C>>,
    kernel: K,
) -> Vec<Tracked<C>> {
    match inputs.len() {
        1 => record_array::<K, C, 1>(inputs, kernel),
        2 => record_array::<K, C, 2>(inputs, kernel),
        3 => record_array::<K, C, 3>(inputs, kernel),
        4 => record_array::<K, C, 4>(inputs, kernel),
        5 => record_array::<K, C, 5>(inputs, kernel),
        6 => record_array::<K, C, 6>(inputs, kernel),
        7 => record_array::<K, C, 7>(inputs, kernel),
        8 => record_array::<K, C, 8>(inputs, kernel),
        MOST_INPUTS => record_array::<K, C, MOST_INPUTS>(inputs, kernel),
        other => unreachable!("no joint operation has {other} inputs"),
    }
}

fn record_array<K: JointKernel, C: CheckpointStrategy, const N: usize>(
    inputs: Vec<Tracked<C>>,
    kernel: K,
) -> Vec<Tracked<C>> {
    let inputs: [Tracked<C>; N] = inputs.try_into().expect("the number of inputs was matched");
    let needs = inputs.each_ref().map(<Tracked<C>>::is_tracked);
    let nodes = inputs.each_ref().map(<Tracked<C>>::node);
    let types = inputs.each_ref().map(|input| (flex::dims(input.primitive()), input.dtype()));
    let nothing = flex::tensor(vec![0.0], [1]);
    let slots = Slots::default();
    let (hub, outputs) =
        match HubBackward::<K, N>(PhantomData).prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let reads = kernel.reads(&needs);
                let mut kept = [None; N];
                for (slot, (input, read)) in kept.iter_mut().zip(inputs.iter().zip(&reads)) {
                    *slot = read.then(|| prep.checkpoint(input));
                }
                let inputs = primitives::<C, N>(inputs);
                let weights = std::array::from_fn::<_, N, _>(|i| i >= kernel.first_weight());
                let inputs_kept = saved::is_measured().then(|| count(&inputs, &reads, &weights));
                let (outputs, saved) = forward(&kernel, inputs);
                let counted = inputs_kept.and_then(|inputs| saved::record(inputs, &saved));
                slots.open(outputs.len());
                let slots = slots.clone();
                let state = HubState { kernel, kept, saved, types, slots, counted };
                (prep.finish(state, nothing), outputs)
            }
            OpsKind::UnTracked(prep) => {
                let (outputs, _) = forward(&kernel, primitives::<C, N>(inputs));
                (prep.finish(nothing), outputs)
            }
        };
    let output = |(index, value)| {
        let slot = Slot { slots: slots.clone(), index };
        match OutputBackward.prepare::<C>([hub.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(slot, value),
            OpsKind::UnTracked(prep) => prep.finish(value),
        }
    };
    outputs.into_iter().enumerate().map(output).collect()
}

/// Computes the outputs in their element type.
pub(super) fn forward<K: JointKernel>(
    kernel: &K,
    inputs: Vec<FlexTensor>,
) -> (Vec<FlexTensor>, K::Saved) {
    let dtype = inputs[0].dtype();
    let (outputs, saved) = kernel.forward(inputs.into_iter().map(half_precision::widen).collect());
    let narrow = |output| half_precision::narrow(output, dtype);
    (outputs.into_iter().map(narrow).collect(), saved)
}

fn primitives<C: CheckpointStrategy, const N: usize>(inputs: [Tracked<C>; N]) -> Vec<FlexTensor> {
    inputs.into_iter().map(<Tracked<C>>::into_primitive).collect()
}

/// The gradients that outputs leave for their hub.
#[derive(Debug, Clone, Default)]
struct Slots(Arc<Mutex<Vec<Option<FlexTensor>>>>);

impl Slots {
    fn open(&self, count: usize) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).resize(count, None);
    }

    fn put(&self, index: usize, gradient: FlexTensor) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[index] = Some(gradient);
    }

    fn take(&self) -> Vec<Option<FlexTensor>> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[derive(Debug, Clone)]
struct Slot {
    slots: Slots,
    index: usize,
}

#[derive(Debug)]
struct OutputBackward;

impl Backward<Flex, 1> for OutputBackward {
    type State = Slot;

    fn backward(self, ops: Ops<Slot, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let Slot { slots, index } = ops.state;
        slots.put(index, half_precision::widen(grads.consume::<Flex>(&ops.node)));
        let [hub] = ops.parents;
        if let Some(hub) = hub {
            grads.register::<Flex>(hub.id, flex::tensor(vec![0.0], [1]));
        }
    }
}

struct HubBackward<K, const N: usize>(PhantomData<fn() -> K>);

impl<K, const N: usize> fmt::Debug for HubBackward<K, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::any::type_name::<K>())
    }
}

#[derive(Debug, Clone)]
struct HubState<K, S, const N: usize> {
    kernel: K,
    kept: [Option<NodeId>; N],
    saved: S,
    /// Shapes and element types of the inputs, which their gradients take.
    types: [(Vec<usize>, DType); N],
    slots: Slots,
    /// Bytes of `saved` that are no tensors, for the ledger.
    counted: Option<Arc<usize>>,
}

impl<K: JointKernel, const N: usize> Backward<Flex, N> for HubBackward<K, N> {
    type State = HubState<K, K::Saved, N>;

    fn backward(
        self,
        ops: Ops<Self::State, N>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let _ = grads.consume::<Flex>(&ops.node);
        let HubState { kernel, kept, saved, types, slots, counted: _counted } = ops.state;
        let mut retrieve = |node| checkpointer.retrieve_node_output::<FlexTensor>(node);
        let mut input = |node: Option<NodeId>| node.map(&mut retrieve).map(half_precision::widen);
        let inputs = kept.into_iter().map(&mut input).collect();
        let needs = ops.parents.each_ref().map(Option::is_some);
        let results = kernel.backward(inputs, saved, slots.take(), &needs);
        for ((parent, result), (shape, dtype)) in ops.parents.into_iter().zip(results).zip(types) {
            if let Some(parent) = parent {
                // The tape wants a gradient for every parent, also of an output that the loss does not use.
                let zeros = || flex::tensor(vec![0.0; shape.iter().product()], shape);
                let result = half_precision::narrow(result.unwrap_or_else(zeros), dtype);
                grads.register::<Flex>(parent.id, result);
            }
        }
    }
}
