//! The seam between a Flex kernel and Burn's autodiff: one extension trait carries every fused operation.
//!
//! A [`Kernel`] is plain arithmetic on Flex tensors: forward, what to keep, backward. [`apply1`], [`apply2`] and [`apply3`]
//! record it as one step of the tape; [`apply_joint`] records a [`JointKernel`], which has several outputs. Inputs that backward reads are kept as checkpoints of their nodes, not as tensors, so
//! that an input which a memory-bound operation can recompute (a gathered weight) is not held in between.

mod joint;

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Autodiff, Backend, BackendTensor, Dispatch, DispatchAutodiffContext, DispatchTensor,
    DispatchTensorKind, ExtensionType, Flex, TensorMetadata, backend_extension,
};
use burn::tensor::{DType, Tensor};
use burn_flex::FlexTensor;

use super::half_precision;
use super::saved::{self, Keep, Kept};

pub(crate) use joint::{JointKernel, MOST_INPUTS};

/// Computes one operation of `N` float inputs and its gradients on Flex tensors of `f32`.
///
/// Half-precision inputs are widened before a kernel sees them, and its results are narrowed.
pub(crate) trait Kernel<const N: usize>: Clone + fmt::Debug + Send + 'static {
    /// Whether the output takes the element type of the first input; losses stay `f32`.
    const NARROWS: bool = true;

    /// Forward's results that backward needs besides the inputs.
    type Saved: Keep + Clone + fmt::Debug + Send + 'static;

    /// Says which inputs backward reads, given which inputs need gradients.
    fn reads(&self, needs: [bool; N]) -> [bool; N];

    /// Says which inputs are weights, which do not count as saved for the backward pass.
    fn weights(&self) -> [bool; N] {
        [false; N]
    }

    /// Computes the output; `needs` says which inputs will be asked for gradients.
    fn forward(&self, inputs: [FlexTensor; N], needs: [bool; N]) -> (FlexTensor, Self::Saved);

    /// Computes the gradients of the inputs that need one.
    fn backward(
        &self,
        inputs: [Option<FlexTensor>; N],
        saved: Self::Saved,
        grad: FlexTensor,
        needs: [bool; N],
    ) -> [Option<FlexTensor>; N];
}

/// Float tensors of a backend, however many.
pub(crate) struct Floats<B: Backend>(Vec<FloatTensor<B>>);

impl<B: Backend> ExtensionType<B> for Floats<B> {
    type Target = Floats<Dispatch>;

    fn map_to_dispatch<F>(self, map_kind: F, autodiff: DispatchAutodiffContext) -> Self::Target
    where
        F: Fn(BackendTensor<B>) -> DispatchTensorKind,
    {
        let wrap = |tensor| {
            let kind = map_kind(BackendTensor::Float(tensor));
            DispatchTensor { kind, autodiff }
        };
        Floats(self.0.into_iter().map(wrap).collect())
    }

    fn map_from_dispatch<F>(target: Self::Target, unwrap_kind: F) -> Self
    where
        F: Fn(DispatchTensor) -> BackendTensor<B>,
    {
        Self(target.0.into_iter().map(|tensor| unwrap_kind(tensor).float()).collect())
    }

    fn routing_tensor(target: &Self::Target) -> Option<&DispatchTensor> {
        target.0.first()
    }

    fn routing_float_tensor(target: &Self::Target) -> Option<&DispatchTensor> {
        target.0.first()
    }

    fn autodiff_context(target: &Self::Target) -> DispatchAutodiffContext {
        let contexts = target.0.iter().map(|tensor| tensor.autodiff);
        contexts.fold(DispatchAutodiffContext::Disabled, DispatchAutodiffContext::merge)
    }
}

/// Runs a kernel on the float tensors of a backend.
#[backend_extension(Flex, Autodiff)]
pub(crate) trait FusedOps: Backend {
    /// Runs a kernel of `N` inputs.
    fn fused<K: Kernel<N>, const N: usize>(
        #[extension_type] inputs: Floats<Self>,
        kernel: K,
    ) -> FloatTensor<Self>;
    /// Runs a kernel of several outputs.
    fn joint<K: JointKernel>(#[extension_type] inputs: Floats<Self>, kernel: K) -> Floats<Self>;
}

fn fused<const N: usize>(inputs: [DispatchTensor; N], kernel: impl Kernel<N>) -> DispatchTensor {
    <Dispatch as FusedOps>::fused(Floats(inputs.into()), kernel)
}

/// Applies a kernel of one input.
pub(crate) fn apply1<const A: usize, const D: usize>(
    a: Tensor<A>,
    kernel: impl Kernel<1>,
) -> Tensor<D> {
    Tensor::from_dispatch(fused([a.into_dispatch()], kernel))
}

/// Applies a kernel of two inputs.
pub(crate) fn apply2<const A: usize, const B: usize, const D: usize>(
    a: Tensor<A>,
    b: Tensor<B>,
    kernel: impl Kernel<2>,
) -> Tensor<D> {
    Tensor::from_dispatch(fused([a.into_dispatch(), b.into_dispatch()], kernel))
}

/// Applies a kernel of three inputs.
pub(crate) fn apply3<const A: usize, const B: usize, const C: usize, const D: usize>(
    a: Tensor<A>,
    b: Tensor<B>,
    c: Tensor<C>,
    kernel: impl Kernel<3>,
) -> Tensor<D> {
    Tensor::from_dispatch(fused([a.into_dispatch(), b.into_dispatch(), c.into_dispatch()], kernel))
}

/// Applies a kernel of several outputs, all of one rank.
pub(crate) fn apply_joint<const D: usize>(
    inputs: Vec<DispatchTensor>,
    kernel: impl JointKernel,
) -> Vec<Tensor<D>> {
    let outputs = <Dispatch as FusedOps>::joint(Floats(inputs), kernel);
    outputs.0.into_iter().map(Tensor::from_dispatch).collect()
}

fn array<T, const N: usize>(values: Vec<T>) -> [T; N] {
    values.try_into().ok().expect("the kernel's number of inputs")
}

impl FusedOps for Flex {
    fn fused<K: Kernel<N>, const N: usize>(inputs: Floats<Self>, kernel: K) -> FloatTensor<Self> {
        forward(&kernel, array(inputs.0), [false; N]).0
    }

    fn joint<K: JointKernel>(inputs: Floats<Self>, kernel: K) -> Floats<Self> {
        Floats(joint::forward(&kernel, inputs.0).0)
    }
}

impl<C: CheckpointStrategy> FusedOps for Autodiff<Flex, C> {
    fn fused<K: Kernel<N>, const N: usize>(inputs: Floats<Self>, kernel: K) -> FloatTensor<Self> {
        record::<K, C, N>(array(inputs.0), kernel)
    }

    fn joint<K: JointKernel>(inputs: Floats<Self>, kernel: K) -> Floats<Self> {
        Floats(joint::record::<K, C>(inputs.0, kernel))
    }
}

/// Computes the output in its element type.
fn forward<K: Kernel<N>, const N: usize>(
    kernel: &K,
    inputs: [FlexTensor; N],
    needs: [bool; N],
) -> (FlexTensor, K::Saved) {
    let dtype = inputs[0].dtype();
    let (output, saved) = kernel.forward(inputs.map(half_precision::widen), needs);
    (if K::NARROWS { half_precision::narrow(output, dtype) } else { output }, saved)
}

/// The backward step of any kernel.
struct FusedBackward<K, const N: usize>(PhantomData<fn() -> K>);

impl<K, const N: usize> fmt::Debug for FusedBackward<K, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::any::type_name::<K>())
    }
}

#[derive(Debug, Clone)]
struct FusedState<K, S, const N: usize> {
    kernel: K,
    kept: [Option<NodeId>; N],
    /// Element types of the inputs, which their gradients take.
    dtypes: [DType; N],
    saved: S,
    /// Lives as long as the results do.
    counted: Option<Arc<usize>>,
}

impl<K: Kernel<N>, const N: usize> Backward<Flex, N> for FusedBackward<K, N> {
    type State = FusedState<K, K::Saved, N>;

    fn backward(
        self,
        ops: Ops<Self::State, N>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let grad = half_precision::widen(grads.consume::<Flex>(&ops.node));
        let FusedState { kernel, kept, dtypes, saved, counted: _counted } = ops.state;
        let mut retrieve = |node| checkpointer.retrieve_node_output::<FlexTensor>(node);
        let inputs = kept.map(|node| node.map(&mut retrieve).map(half_precision::widen));
        let needs = ops.parents.each_ref().map(Option::is_some);
        let results = kernel.backward(inputs, saved, grad, needs);
        for ((parent, result), dtype) in ops.parents.into_iter().zip(results).zip(dtypes) {
            if let (Some(parent), Some(result)) = (parent, result) {
                grads.register::<Flex>(parent.id, half_precision::narrow(result, dtype));
            }
        }
    }
}

fn record<K: Kernel<N>, C: CheckpointStrategy, const N: usize>(
    inputs: [FloatTensor<Autodiff<Flex, C>>; N],
    kernel: K,
) -> FloatTensor<Autodiff<Flex, C>> {
    let needs = inputs.each_ref().map(<FloatTensor<Autodiff<Flex, C>>>::is_tracked);
    let nodes = inputs.each_ref().map(<FloatTensor<Autodiff<Flex, C>>>::node);
    let step = FusedBackward::<K, N>(PhantomData);
    match step.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(mut prep) => {
            let reads = kernel.reads(needs);
            let dtypes = inputs.each_ref().map(TensorMetadata::dtype);
            let mut kept = [None; N];
            for (slot, (input, read)) in kept.iter_mut().zip(inputs.iter().zip(reads)) {
                *slot = read.then(|| prep.checkpoint(input));
            }
            let inputs = inputs.map(<FloatTensor<Autodiff<Flex, C>>>::into_primitive);
            let inputs_kept =
                saved::is_measured().then(|| count(&inputs, &reads, &kernel.weights()));
            let (output, saved) = forward(&kernel, inputs, needs);
            let counted = inputs_kept.and_then(|inputs| saved::record(inputs, &saved));
            prep.finish(FusedState { kernel, kept, dtypes, saved, counted }, output)
        }
        OpsKind::UnTracked(prep) => {
            let inputs = inputs.map(<FloatTensor<Autodiff<Flex, C>>>::into_primitive);
            let (output, _) = forward(&kernel, inputs, needs);
            prep.finish(output)
        }
    }
}

/// Lists the inputs that backward reads and that are no weights.
fn count(inputs: &[FlexTensor], reads: &[bool], weights: &[bool]) -> Kept {
    let mut kept = Kept::default();
    for (input, (read, weight)) in inputs.iter().zip(reads.iter().zip(weights)) {
        if *read && !weight {
            input.list(&mut kept);
        }
    }
    kept
}
