//! Which kernels of an NVIDIA GPU attend: the one place that chooses.
//!
//! cuDNN where it is found, serves the problem and has plans for both directions; otherwise our own kernels; nothing where
//! those do not serve the problem either, which then is composed of tensor operations. An operation's backward is by
//! whoever did its forward. All of them give log-sum-exps of one meaning, so blocks may mix.

use std::sync::atomic::{AtomicU8, Ordering};

use burn::backend::DispatchDevice;
use burn::tensor::{DType, Device, Tensor};
use burn_cubecl::tensor::CubeTensor;

use super::cudnn::{CudnnAttention, Problem};
use super::gpu::{self, GpuAttention};
use super::operation::Geometry;
use super::options::AttentionOptions;
use crate::backend::Erased;
use crate::kernels::cube::{closed, contiguous, opened};
use crate::kernels::dispatch;
use crate::kernels::fused::{Kernel, apply};

/// Which kernels of a GPU attend, for benchmarks and for finding faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Preference {
    /// The first that serves of cuDNN's and ours.
    Any,
    /// Not cuDNN's.
    Own,
    /// None: attention is composed of tensor operations.
    Composed,
}

static PREFERENCE: AtomicU8 = AtomicU8::new(Preference::Any as u8);

impl Preference {
    /// What is preferred, by name.
    pub(crate) const NAMES: [(&'static str, Self); 3] =
        [("cudnn", Self::Any), ("own", Self::Own), ("composed", Self::Composed)];

    /// Makes this the preference of the process, for operations that begin later.
    pub(crate) fn set(self) {
        PREFERENCE.store(self as u8, Ordering::Relaxed);
    }

    fn current() -> Self {
        let number = PREFERENCE.load(Ordering::Relaxed);
        let mut all = Self::NAMES.into_iter().map(|(_, preference)| preference);
        all.find(|preference| *preference as u8 == number).unwrap_or(Self::Any)
    }
}

/// Kernels that serve an attention, and its place in the tape.
#[derive(Debug, Clone)]
pub(super) enum Candidate {
    Cudnn(CudnnAttention),
    Own(Box<GpuAttention>),
}

/// Chooses the kernels for an attention on a device.
pub(super) fn choose(
    device: &Device,
    dtypes: [DType; 3],
    geometry: &Geometry,
    options: &AttentionOptions,
) -> Option<Candidate> {
    let preference = Preference::current();
    if preference == Preference::Composed || !dispatch::has_gpu_kernels(device) {
        return None;
    }
    if preference == Preference::Any
        && let Some(problem) = Problem::new(dtypes, geometry, options)
        && let DispatchDevice::Cube(device) = device.clone().inner().as_dispatch()
        && let Some(attention) = CudnnAttention::new(device, problem, geometry.scale)
    {
        return Some(Candidate::Cudnn(attention));
    }
    let own = || Candidate::Own(Box::new(GpuAttention::new(*geometry, options.clone())));
    gpu::serves(geometry.head_dim, dtypes).then(own)
}

fn open(tensor: Erased) -> CubeTensor {
    contiguous(opened(tensor))
}

impl Candidate {
    /// Attends, and records it.
    pub(super) fn attention(self, inputs: [Tensor<4>; 3]) -> Tensor<4> {
        apply(inputs.map(Erased::new), self)
    }

    /// Returns the output and the log-sum-exp of each query's scores, `[batch, heads, queries]`.
    pub(super) fn forward(&self, inputs: [Tensor<4>; 3]) -> (Tensor<4>, Tensor<3>) {
        let (output, log_totals) = self.run_forward(inputs.map(Erased::new));
        (output.into_tensor(), log_totals.into_tensor())
    }

    /// Returns the gradients of queries, keys and values, given what forward returned.
    pub(super) fn backward(
        &self,
        inputs: [Tensor<4>; 3],
        output: Tensor<4>,
        log_totals: Tensor<3>,
        grad: Tensor<4>,
    ) -> [Tensor<4>; 3] {
        let [output, grad] = [output, grad].map(Erased::new);
        let log_totals = Erased::new(log_totals);
        self.run_backward(inputs.map(Erased::new), output, log_totals, grad)
            .map(Erased::into_tensor)
    }

    fn run_forward(&self, inputs: [Erased; 3]) -> (Erased, Erased) {
        let inputs = inputs.map(open);
        let (output, log_totals) = match self {
            Self::Cudnn(attention) => attention.forward(&inputs),
            Self::Own(attention) => attention.forward(&inputs),
        };
        (closed(output), closed(log_totals))
    }

    fn run_backward(
        &self,
        inputs: [Erased; 3],
        output: Erased,
        log_totals: Erased,
        grad: Erased,
    ) -> [Erased; 3] {
        let inputs = inputs.map(open);
        let [output, log_totals, grad] = [output, log_totals, grad].map(open);
        let gradients = match self {
            Self::Cudnn(attention) => attention.backward(&inputs, &output, &log_totals, &grad),
            Self::Own(attention) => attention.backward(&inputs, &output, &log_totals, &grad),
        };
        gradients.map(closed)
    }
}

impl Kernel<3, Erased> for Candidate {
    /// The output, and the log-sum-exps.
    type Saved = (Erased, Erased);

    fn reads(&self, _needs: [bool; 3]) -> [bool; 3] {
        [true; 3]
    }

    fn forward(&self, inputs: [Erased; 3], _needs: [bool; 3]) -> (Erased, Self::Saved) {
        let (output, log_totals) = self.run_forward(inputs);
        (output.clone(), (output, log_totals))
    }

    fn backward(
        &self,
        inputs: [Option<Erased>; 3],
        (output, log_totals): Self::Saved,
        grad: Erased,
        _needs: [bool; 3],
    ) -> [Option<Erased>; 3] {
        let inputs = inputs.map(|x| x.expect("all inputs were kept"));
        self.run_backward(inputs, output, log_totals, grad).map(Some)
    }
}
