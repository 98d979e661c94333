//! The steps that a unit records on Burn's tape.
//!
//! A step of Burn has a fixed number of parents and one output. A unit has as many of both as its
//! module wants, so it records a small graph instead: `tie` collects parents into a token, one
//! tensor without meaning; `segment` is where the work of the backward pass happens; `emit` hands
//! out each output. Backward runs in order of depth, so the segment runs after all outputs have
//! their gradients and before any parent.
//!
//! ```text
//! parameters --\                          /-- emit --> output 0
//!               tie .. tie --> segment --+
//! inputs ------/                          \-- emit --> output 1
//! ```

use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use burn::backend::autodiff::NodeId;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, DispatchTensor, backend_extension};
use burn::tensor::{Device, Tensor};

use super::Erased;
use crate::comm::Bridge;

/// The place of a tensor on the tape, known once the tensor is tied.
pub(crate) type Place = Arc<OnceLock<NodeId>>;

/// Receives gradients for places on the tape.
pub(crate) type Sink<'a> = dyn FnMut(&Place, Erased) + 'a;

/// Work of the backward pass.
pub(crate) trait Step: Send + Sync {
    /// Runs it; gradients go to `sink`.
    fn run(&self, sink: &mut Sink<'_>);
}

/// Makes a value again in the backward pass, so that the tape need not hold it.
pub(crate) trait Source: Send + Sync {
    /// Returns the plain value.
    fn value(&self, index: usize) -> Erased;
}

/// A parent of a segment.
#[derive(Clone, Default)]
pub(crate) struct Tie {
    pub(super) place: Place,
    /// Set by the backward pass of [`pass`]; where it stays unset nothing else gives the parent a
    /// gradient.
    pub(super) used: Option<Arc<AtomicBool>>,
}

/// Where the gradient of an output of a segment is left for the segment's step.
#[derive(Debug, Clone, Default)]
pub(crate) struct GradientSlot(Arc<Mutex<Option<Erased>>>);

impl GradientSlot {
    /// Takes the gradient that the backward pass left here.
    pub(crate) fn take(&self) -> Option<Erased> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(super) fn put(&self, gradient: Erased) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(gradient);
    }
}

/// An output of a segment.
#[derive(Clone)]
pub(crate) struct Emission {
    pub(super) gradient: GradientSlot,
    pub(super) source: Option<(Arc<dyn Source>, usize)>,
}

impl Emission {
    pub(crate) fn new(gradient: GradientSlot) -> Self {
        Self { gradient, source: None }
    }

    /// Makes an output that the tape does not hold: backward asks `source` for it.
    pub(crate) fn from_source(
        gradient: GradientSlot,
        source: Arc<dyn Source>,
        index: usize,
    ) -> Self {
        Self { gradient, source: Some((source, index)) }
    }
}

macro_rules! opaque {
    ($($name:ty),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(stringify!($name))
            }
        }
    )*};
}

/// A shared [`Step`].
#[derive(Clone)]
pub(crate) struct SharedStep(pub(crate) Arc<dyn Step>);

opaque!(Tie, Emission, SharedStep);

/// The recorded operations. Without autodiff there is nothing to record.
#[backend_extension(Flex, Cube: cfg(feature = "cube"), Autodiff)]
pub(crate) trait TapeOps: Backend {
    /// Starts a chain of ties, or ends one, with work for the backward pass.
    fn segment(parent: FloatTensor<Self>, tie: Tie, step: SharedStep) -> FloatTensor<Self>;
    /// Adds a parent to a chain.
    fn tie(token: FloatTensor<Self>, parent: FloatTensor<Self>, tie: Tie) -> FloatTensor<Self>;
    /// Makes `value` an output of the segment that made the token.
    fn emit(
        token: FloatTensor<Self>,
        value: FloatTensor<Self>,
        emission: Emission,
    ) -> FloatTensor<Self>;
    /// Is the identity on `input`, whose gradient arrives before the tie's step runs.
    fn pass(
        token: FloatTensor<Self>,
        input: FloatTensor<Self>,
        used: Arc<AtomicBool>,
    ) -> FloatTensor<Self>;
    /// Is a tensor of one element whose backward pass gives `output` the gradient `gradient`.
    fn inject(output: FloatTensor<Self>, gradient: Erased) -> FloatTensor<Self>;
}

pub(crate) fn segment(parent: &Erased, tie: &Tie, step: Arc<dyn Step>) -> Erased {
    wrap(<Dispatch as TapeOps>::segment(unwrap(parent), tie.clone(), SharedStep(step)))
}

pub(crate) fn tie(token: &Erased, parent: &Erased, tie: &Tie) -> Erased {
    wrap(<Dispatch as TapeOps>::tie(unwrap(token), unwrap(parent), tie.clone()))
}

/// Ties every parent that has a tie, beginning with the one at `anchor`, whose step runs last of
/// all.
pub(crate) fn chain(
    anchor: usize,
    parents: &[Erased],
    ties: &[Option<Tie>],
    last: Arc<dyn Step>,
) -> Erased {
    let first = ties[anchor].as_ref().expect("the parent at the anchor has a tie");
    let rest = parents.iter().zip(ties).skip(anchor + 1);
    let tied = rest.filter_map(|(parent, parent_tie)| Some((parent, parent_tie.as_ref()?)));
    tied.fold(segment(&parents[anchor], first, last), |token, (parent, parent_tie)| {
        tie(&token, parent, parent_tie)
    })
}

/// Returns what stands for parameters on the tape of the device on which their unit computes, and the
/// ties of that.
///
/// Parameters that rest elsewhere cannot be parents there. Their gradients are left at their places
/// all the same; of all of them one leaf without meaning is a parent, so that steps are recorded.
pub(crate) fn stand_ins(
    values: Vec<Erased>,
    ties: Vec<Option<Tie>>,
    device: &Device,
) -> (Vec<Erased>, Vec<Option<Tie>>) {
    let mut has_leaf = false;
    let stand_in = |(value, tie): (Erased, Option<Tie>)| {
        let (Some(tie), true) = (&tie, value.device() != *device) else { return (value, tie) };
        let node = value.node().expect("a parameter with a tie is on a tape");
        let _ = tie.place.set(node);
        if std::mem::replace(&mut has_leaf, true) {
            return (value, None);
        }
        let leaf = Erased::zeros(vec![1], value.dtype(), device).lift(value.strategy());
        (leaf.require_grad(), Some(Tie::default()))
    };
    values.into_iter().zip(ties).map(stand_in).unzip()
}

/// Ties an input that the body also reads directly, and returns what the body reads.
pub(crate) fn tie_read(token: &Erased, parent: &Erased) -> (Erased, Erased) {
    let used = Arc::new(AtomicBool::new(false));
    let token = tie(token, parent, &Tie { used: Some(Arc::clone(&used)), ..Tie::default() });
    let read = wrap(<Dispatch as TapeOps>::pass(unwrap(&token), unwrap(parent), used));
    (token, read)
}

pub(crate) fn emit(token: &Erased, value: &Erased, emission: &Emission) -> Erased {
    wrap(<Dispatch as TapeOps>::emit(unwrap(token), unwrap(value), emission.clone()))
}

pub(crate) fn inject(output: &Erased, gradient: Erased) -> Tensor<1> {
    wrap(<Dispatch as TapeOps>::inject(unwrap(output), gradient)).into_tensor()
}

impl Tie {
    /// Returns where the parent stands on the tape.
    pub(crate) fn place(&self) -> &Place {
        &self.place
    }
}

fn unwrap(tensor: &Erased) -> DispatchTensor {
    tensor.clone().into_tensor::<1>().into_dispatch()
}

fn wrap(tensor: DispatchTensor) -> Erased {
    Erased::new(Tensor::<1>::from_dispatch(tensor))
}

impl<B: Bridge> TapeOps for B {
    fn segment(parent: FloatTensor<Self>, _: Tie, _: SharedStep) -> FloatTensor<Self> {
        parent
    }

    fn tie(token: FloatTensor<Self>, _: FloatTensor<Self>, _: Tie) -> FloatTensor<Self> {
        token
    }

    fn emit(_: FloatTensor<Self>, value: FloatTensor<Self>, _: Emission) -> FloatTensor<Self> {
        value
    }

    fn pass(
        _: FloatTensor<Self>,
        input: FloatTensor<Self>,
        _: Arc<AtomicBool>,
    ) -> FloatTensor<Self> {
        input
    }

    fn inject(output: FloatTensor<Self>, _: Erased) -> FloatTensor<Self> {
        output
    }
}
