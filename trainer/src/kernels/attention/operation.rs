//! The attention operation and its place in the tape.

use std::sync::Arc;

use burn::tensor::Tensor;
use burn_flex::FlexTensor;

#[cfg(feature = "cuda")]
use super::candidate;
use super::mask::Mask;
use super::options::AttentionOptions;
use super::{composed, flex_backward, flex_forward};
use crate::kernels::fused::{Kernel, apply3};
use crate::kernels::{dispatch, flex};

/// Attends from every query to the keys its options admit.
///
/// A query that no key is admitted to yields zeros and passes no gradient.
///
/// # Shapes
///
/// `q` is `[batch, queries, heads, head_dim]`, `k` and `v` are `[batch, keys, kv_heads, head_dim]` where `kv_heads` divides
/// `heads`; the result has the shape of `q`.
///
/// # Panics
///
/// When the shapes do not agree.
///
/// # References
///
/// `FlashAttention-2`, arXiv:2307.08691, algorithms 1 and 2; GQA, arXiv:2305.13245.
pub fn attention(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    options: &AttentionOptions,
) -> Tensor<4> {
    options.check(q.dims(), k.dims(), v.dims());
    let dtypes = [q.dtype(), k.dtype(), v.dtype()];
    let geometry = Geometry::new(q.dims(), k.dims(), options.scale(q.dims()[3]));
    if dispatch::has_fused_kernel(&q.device(), &dtypes) {
        let mask = Arc::new(Mask::new(options, &geometry));
        return apply3(q, k, v, AttentionKernel { geometry, mask });
    }
    #[cfg(feature = "cuda")]
    if let Some(candidate) = candidate::choose(&q.device(), dtypes, &geometry, options) {
        return candidate.attention([q, k, v]);
    }
    composed::attention(q, k, v, options)
}

/// The sizes of an attention.
#[derive(Debug, Clone, Copy)]
pub(super) struct Geometry {
    pub(super) batch: usize,
    pub(super) queries: usize,
    pub(super) keys: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    pub(super) scale: f32,
}

impl Geometry {
    pub(super) fn new(q: [usize; 4], k: [usize; 4], scale: f64) -> Self {
        let [batch, queries, heads, head_dim] = q;
        let [_, keys, kv_heads, _] = k;
        Self { batch, queries, keys, heads, kv_heads, head_dim, scale: scale as f32 }
    }

    /// Returns the number of query heads that share a key-value head.
    pub(super) fn group(&self) -> usize {
        self.heads / self.kv_heads
    }
}

#[derive(Debug, Clone)]
struct AttentionKernel {
    geometry: Geometry,
    mask: Arc<Mask>,
}

impl Kernel<3> for AttentionKernel {
    /// The output, and the log-sum-exp of each query's scores as `[batch, heads, queries]`.
    type Saved = (FlexTensor, Arc<[f32]>);

    fn reads(&self, _needs: [bool; 3]) -> [bool; 3] {
        [true; 3]
    }

    fn forward(&self, inputs: [FlexTensor; 3], _needs: [bool; 3]) -> (FlexTensor, Self::Saved) {
        let inputs = inputs.map(flex::contiguous);
        let [q, k, v] = inputs.each_ref().map(FlexTensor::storage::<f32>);
        let (output, log_totals) = flex_forward::forward(&self.geometry, &self.mask, q, k, v);
        let output = flex::tensor(output, flex::dims(&inputs[0]));
        (output.clone(), (output, log_totals.into()))
    }

    fn backward(
        &self,
        inputs: [Option<FlexTensor>; 3],
        (output, log_totals): Self::Saved,
        grad: FlexTensor,
        _needs: [bool; 3],
    ) -> [Option<FlexTensor>; 3] {
        let inputs = inputs.map(|t| flex::contiguous(t.expect("all inputs were kept")));
        let grad = flex::contiguous(grad);
        let [q, k, v] = inputs.each_ref().map(FlexTensor::storage::<f32>);
        let forward = flex_backward::Forward {
            q,
            k,
            v,
            output: output.storage(),
            log_totals: &log_totals,
            grad: grad.storage(),
        };
        let gradients = flex_backward::backward(&self.geometry, &self.mask, &forward);
        let mut shapes = inputs.iter().map(flex::dims);
        gradients.map(|values| {
            let shape = shapes.next().expect("each input has a gradient");
            Some(flex::tensor(values, shape))
        })
    }
}
