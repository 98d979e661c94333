//! Which kernels of an NVIDIA GPU attend: the one place that chooses.
//!
//! cuDNN where it is found, serves the problem and has plans for both directions; otherwise our own kernels; nothing where
//! those do not serve the problem either, which then is composed of tensor operations. An operation's backward is by
//! whoever did its forward. All of them give log-sum-exps of one meaning, so blocks may mix.

use std::sync::atomic::{AtomicU8, Ordering};

use burn::backend::DispatchDevice;
use burn::tensor::{DType, Device, Tensor};

use super::cudnn::{CudnnAttention, Problem};
use super::gpu;
use super::operation::Geometry;
use super::options::AttentionOptions;
use crate::backend::Erased;
use crate::kernels::cube::{closed, contiguous, opened};
use crate::kernels::dispatch;

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

/// Kernels that serve an attention.
#[derive(Debug, Clone)]
pub(super) enum Candidate {
    Cudnn(CudnnAttention),
    Own,
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
    gpu::serves(geometry.head_dim, dtypes).then_some(Candidate::Own)
}

impl Candidate {
    /// Attends, and records it.
    pub(super) fn attention(
        self,
        [q, k, v]: [Tensor<4>; 3],
        options: &AttentionOptions,
    ) -> Tensor<4> {
        match self {
            Self::Cudnn(attention) => attention.attention([q, k, v]),
            Self::Own => gpu::attention(q, k, v, options),
        }
    }

    /// Returns the output and the log-sum-exp of each query's scores, `[batch, heads, queries]`.
    pub(super) fn forward(
        self,
        inputs: [Tensor<4>; 3],
        options: &AttentionOptions,
    ) -> (Tensor<4>, Tensor<3>) {
        let attention = match self {
            Self::Cudnn(attention) => attention,
            Self::Own => return gpu::forward(inputs, options),
        };
        let inputs = inputs.map(|x| contiguous(opened(Erased::new(x))));
        let (output, log_totals) = attention.run_forward(&inputs);
        (closed(output).into_tensor(), closed(log_totals).into_tensor())
    }

    /// Returns the gradients of queries, keys and values, given what forward returned.
    pub(super) fn backward(
        self,
        inputs: [Tensor<4>; 3],
        output: Tensor<4>,
        log_totals: Tensor<3>,
        grad: Tensor<4>,
        options: &AttentionOptions,
    ) -> [Tensor<4>; 3] {
        let attention = match self {
            Self::Cudnn(attention) => attention,
            Self::Own => return gpu::backward(inputs, output, log_totals, grad, options),
        };
        let inputs = inputs.map(|x| contiguous(opened(Erased::new(x))));
        let [output, grad] = [output, grad].map(|x| contiguous(opened(Erased::new(x))));
        let log_totals = contiguous(opened(Erased::new(log_totals)));
        attention
            .run_backward(&inputs, &output, &log_totals, &grad)
            .map(|gradient| closed(gradient).into_tensor())
    }
}
