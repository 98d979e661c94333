//! The seam between a kernel and Burn's autodiff: two extension traits carry every fused operation.
//!
//! A [`Kernel`] is plain arithmetic: forward, what to keep, backward. Its values are Flex tensors, for a kernel of the CPU, or
//! [`Erased`] tensors of any backend, for an operation composed of tensor operations or of a GPU's kernels. [`apply1`],
//! [`apply2`] and [`apply3`] record the first as one step of the tape, [`apply`] the second; [`apply_joint`] and
//! [`apply_erased_joint`] record a [`JointKernel`], which has several outputs. Inputs that backward reads are kept as
//! checkpoints of their nodes, not as tensors, so that an input which a memory-bound operation can recompute (a gathered
//! weight) is not held in between.

mod joint;
mod operand;

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

use super::saved::{self, Keep, Kept};
use crate::backend::{Bridge, Erased};

pub(crate) use joint::{JointKernel, MOST_INPUTS};
use operand::Operand;

/// Computes one operation of `N` float inputs and its gradients on values `V`.
///
/// On Flex tensors, half-precision inputs are widened before a kernel sees them, and its results are narrowed.
pub(crate) trait Kernel<const N: usize, V = FlexTensor>:
    Clone + fmt::Debug + Send + 'static
{
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
    fn forward(&self, inputs: [V; N], needs: [bool; N]) -> (V, Self::Saved);

    /// Computes the gradients of the inputs that need one.
    fn backward(
        &self,
        inputs: [Option<V>; N],
        saved: Self::Saved,
        grad: V,
        needs: [bool; N],
    ) -> [Option<V>; N];
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

/// Runs a kernel of the CPU.
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

/// Runs a kernel of tensors on any backend.
#[backend_extension(Flex, Cube: cfg(feature = "cube"), Autodiff)]
pub(crate) trait ErasedOps: Backend {
    /// Runs a kernel of `N` inputs.
    fn erased<K: Kernel<N, Erased>, const N: usize>(
        #[extension_type] inputs: Floats<Self>,
        kernel: K,
    ) -> FloatTensor<Self>;
    /// Runs a kernel of several outputs.
    fn erased_joint<K: JointKernel<Erased>>(
        #[extension_type] inputs: Floats<Self>,
        kernel: K,
    ) -> Floats<Self>;
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

/// Applies a kernel of tensors; `D` is the rank of its output.
pub(crate) fn apply<const N: usize, const D: usize>(
    inputs: [Erased; N],
    kernel: impl Kernel<N, Erased>,
) -> Tensor<D> {
    let inputs = inputs.map(|input| input.into_tensor::<1>().into_dispatch());
    Tensor::from_dispatch(<Dispatch as ErasedOps>::erased(Floats(inputs.into()), kernel))
}

/// Applies a kernel of tensors with several outputs.
pub(crate) fn apply_erased_joint(
    inputs: Vec<Erased>,
    kernel: impl JointKernel<Erased>,
) -> Vec<Erased> {
    let inputs = inputs.into_iter().map(|input| input.into_tensor::<1>().into_dispatch());
    let outputs = <Dispatch as ErasedOps>::erased_joint(Floats(inputs.collect()), kernel);
    outputs.0.into_iter().map(|output| Erased::new(Tensor::<1>::from_dispatch(output))).collect()
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
        forward::<K, FlexTensor, Self, N>(&kernel, array(inputs.0), [false; N]).0
    }

    fn joint<K: JointKernel>(inputs: Floats<Self>, kernel: K) -> Floats<Self> {
        Floats(joint::forward::<K, FlexTensor, Self>(&kernel, inputs.0).0)
    }
}

impl<C: CheckpointStrategy> FusedOps for Autodiff<Flex, C> {
    fn fused<K: Kernel<N>, const N: usize>(inputs: Floats<Self>, kernel: K) -> FloatTensor<Self> {
        record::<K, FlexTensor, Flex, C, N>(array(inputs.0), kernel)
    }

    fn joint<K: JointKernel>(inputs: Floats<Self>, kernel: K) -> Floats<Self> {
        Floats(joint::record::<K, FlexTensor, Flex, C>(inputs.0, kernel))
    }
}

impl<B: Bridge> ErasedOps for B {
    fn erased<K: Kernel<N, Erased>, const N: usize>(
        inputs: Floats<Self>,
        kernel: K,
    ) -> FloatTensor<Self> {
        forward::<K, Erased, Self, N>(&kernel, array(inputs.0), [false; N]).0
    }

    fn erased_joint<K: JointKernel<Erased>>(inputs: Floats<Self>, kernel: K) -> Floats<Self> {
        Floats(joint::forward::<K, Erased, Self>(&kernel, inputs.0).0)
    }
}

impl<B: Bridge + ErasedOps, C: CheckpointStrategy> ErasedOps for Autodiff<B, C> {
    fn erased<K: Kernel<N, Erased>, const N: usize>(
        inputs: Floats<Self>,
        kernel: K,
    ) -> FloatTensor<Self> {
        record::<K, Erased, B, C, N>(array(inputs.0), kernel)
    }

    fn erased_joint<K: JointKernel<Erased>>(inputs: Floats<Self>, kernel: K) -> Floats<Self> {
        Floats(joint::record::<K, Erased, B, C>(inputs.0, kernel))
    }
}

/// Computes the output in its element type.
fn forward<K: Kernel<N, V>, V: Operand<B>, B: Backend, const N: usize>(
    kernel: &K,
    inputs: [FloatTensor<B>; N],
    needs: [bool; N],
) -> (FloatTensor<B>, K::Saved) {
    let dtype = inputs[0].dtype();
    let (output, saved) = kernel.forward(inputs.map(V::open), needs);
    let dtype = if K::NARROWS { dtype } else { output.element_type() };
    (output.close(dtype), saved)
}

/// The backward step of any kernel.
struct FusedBackward<K, V, const N: usize>(PhantomData<fn() -> (K, V)>);

impl<K, V, const N: usize> fmt::Debug for FusedBackward<K, V, N> {
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

impl<K, V, B, const N: usize> Backward<B, N> for FusedBackward<K, V, N>
where
    K: Kernel<N, V>,
    V: Operand<B>,
    B: Backend,
{
    type State = FusedState<K, K::Saved, N>;

    fn backward(
        self,
        ops: Ops<Self::State, N>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let grad = V::open(grads.consume::<B>(&ops.node));
        let FusedState { kernel, kept, dtypes, saved, counted: _counted } = ops.state;
        let mut retrieve = |node| checkpointer.retrieve_node_output::<FloatTensor<B>>(node);
        let inputs = kept.map(|node| node.map(&mut retrieve).map(V::open));
        let needs = ops.parents.each_ref().map(Option::is_some);
        let results = kernel.backward(inputs, saved, grad, needs);
        for ((parent, result), dtype) in ops.parents.into_iter().zip(results).zip(dtypes) {
            if let (Some(parent), Some(result)) = (parent, result) {
                grads.register::<B>(parent.id, result.close(dtype));
            }
        }
    }
}

fn record<K, V, B, C, const N: usize>(
    inputs: [FloatTensor<Autodiff<B, C>>; N],
    kernel: K,
) -> FloatTensor<Autodiff<B, C>>
where
    K: Kernel<N, V>,
    V: Operand<B>,
    B: Backend,
    C: CheckpointStrategy,
{
    let needs = inputs.each_ref().map(<FloatTensor<Autodiff<B, C>>>::is_tracked);
    let nodes = inputs.each_ref().map(<FloatTensor<Autodiff<B, C>>>::node);
    let step = FusedBackward::<K, V, N>(PhantomData);
    match Backward::<B, N>::prepare::<C>(step, nodes).compute_bound().stateful() {
        OpsKind::Tracked(mut prep) => {
            let reads = kernel.reads(needs);
            let dtypes = inputs.each_ref().map(TensorMetadata::dtype);
            let mut kept = [None; N];
            for (slot, (input, read)) in kept.iter_mut().zip(inputs.iter().zip(reads)) {
                *slot = read.then(|| prep.checkpoint(input));
            }
            let inputs = inputs.map(<FloatTensor<Autodiff<B, C>>>::into_primitive);
            let inputs_kept =
                saved::is_measured().then(|| count::<V, B>(&inputs, &reads, &kernel.weights()));
            let (output, saved) = forward::<K, V, B, N>(&kernel, inputs, needs);
            let counted = inputs_kept.and_then(|inputs| saved::record(inputs, &saved));
            prep.finish(FusedState { kernel, kept, dtypes, saved, counted }, output)
        }
        OpsKind::UnTracked(prep) => {
            let inputs = inputs.map(<FloatTensor<Autodiff<B, C>>>::into_primitive);
            prep.finish(forward::<K, V, B, N>(&kernel, inputs, needs).0)
        }
    }
}

/// Lists the inputs that backward reads and that are no weights.
fn count<V: Operand<B>, B: Backend>(
    inputs: &[FloatTensor<B>],
    reads: &[bool],
    weights: &[bool],
) -> Kept {
    let mut kept = Kept::default();
    for (input, (read, weight)) in inputs.iter().zip(reads.iter().zip(weights)) {
        if *read && !weight {
            V::keep(input, &mut kept);
        }
    }
    kept
}
