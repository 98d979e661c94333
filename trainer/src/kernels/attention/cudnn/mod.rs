//! Attention by cuDNN, in 16 bits on GPUs of capability 9.0 and later.
//!
//! It serves the masks of training: full attention, and causal attention whose last query sees the last key or whose
//! first query sees the first. Windows and documents are left to our own kernels.
//!
//! `graph` writes the passes as cuDNN knows them; here they are planned and run. Tensors are contiguous.

#[cfg(test)]
mod gpu_tests;
mod graph;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use burn::tensor::DType;
use burn_cubecl::CubeDevice;
use burn_cubecl::tensor::CubeTensor;

use super::operation::Geometry;
use super::options::AttentionOptions;
use crate::kernels::cube::empty;
use crate::kernels::cuda::cudnn::{Cache, Element, Graph, Plan, queue};
use crate::kernels::cuda::module::current_capability;

/// Fewest queries: fewer come from generation, where each call has other sizes and would need a plan of its own.
const LEAST_QUERIES: usize = 64;

/// Which keys a query sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum MaskKind {
    /// All.
    Full,
    /// Query `i` sees the keys `0..=i`.
    TopLeft,
    /// The last query sees all keys, each before it one less; there are no fewer keys than queries.
    BottomRight,
}

/// What a plan is for, but for the direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Problem {
    pub(super) element: Element,
    pub(super) batch: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) queries: usize,
    pub(super) keys: usize,
    pub(super) head_dim: usize,
    pub(super) mask: MaskKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Direction {
    Forward,
    Backward,
}

static PLANS: Cache<(Direction, Problem)> = Cache::new();

impl MaskKind {
    /// Returns the kind of a mask, if it is one of these.
    fn of(options: &AttentionOptions, queries: usize, keys: usize) -> Option<Self> {
        if options.window.is_some() || options.documents.is_some() {
            return None;
        }
        let shift = options.query_offset as i64 - options.key_offset as i64;
        let (queries, keys) = (queries as i64, keys as i64);
        if !options.causal || shift >= keys - 1 {
            // The first query sees the last key.
            return Some(Self::Full);
        }
        match shift {
            _ if queries > keys => None,
            0 => Some(Self::TopLeft),
            shift if shift == keys - queries => Some(Self::BottomRight),
            _ => None,
        }
    }
}

impl Problem {
    /// Returns the problem of an attention, if cuDNN may serve it.
    pub(super) fn new(
        dtypes: [DType; 3],
        geometry: &Geometry,
        options: &AttentionOptions,
    ) -> Option<Self> {
        let Geometry { batch, queries, keys, heads, kv_heads, head_dim, .. } = *geometry;
        let element = match dtypes {
            [DType::BF16, DType::BF16, DType::BF16] => Element::BF16,
            [DType::F16, DType::F16, DType::F16] => Element::F16,
            _ => return None,
        };
        let mask = MaskKind::of(options, queries, keys)?;
        let is_served = batch > 0
            && keys > 0
            && queries >= LEAST_QUERIES
            && head_dim.is_multiple_of(8)
            && (8..=256).contains(&head_dim)
            && [batch, heads, queries, keys].iter().all(|size| i32::try_from(*size).is_ok());
        is_served.then_some(Self { element, batch, heads, kv_heads, queries, keys, head_dim, mask })
    }
}

fn describe((direction, problem): (Direction, Problem), graph: &mut Graph) -> Result<(), String> {
    let (major, minor) = current_capability()?;
    if major < 9 {
        return Err(format!("capability {major}.{minor} is below 9.0"));
    }
    match direction {
        Direction::Forward => graph::forward(&problem, graph),
        Direction::Backward => graph::backward(&problem, graph),
    }
}

/// An attention that cuDNN has plans for, in both directions.
#[derive(Debug, Clone)]
pub(super) struct CudnnAttention {
    problem: Problem,
    scale: f32,
    /// Forward and backward.
    plans: [Arc<Plan>; 2],
}

impl CudnnAttention {
    /// Returns what attends on a GPU, if cuDNN has plans for both directions there.
    pub(super) fn new(device: &CubeDevice, problem: Problem, scale: f32) -> Option<Self> {
        let forward = PLANS.plan(device, (Direction::Forward, problem), describe)?;
        let backward = PLANS.plan(device, (Direction::Backward, problem), describe)?;
        Some(Self { problem, scale, plans: [forward, backward] })
    }

    /// Returns the output and the log-sum-exp of each query's scores, `[batch, heads, queries]`.
    pub(super) fn forward(&self, [q, k, v]: &[CubeTensor; 3]) -> (CubeTensor, CubeTensor) {
        let Problem { batch, heads, queries, head_dim, .. } = self.problem;
        let output = empty(q, [batch, queries, heads, head_dim], q.dtype);
        let log_totals = empty(q, [batch, heads, queries], DType::F32);
        let tensors = [
            (graph::Q, q),
            (graph::K, k),
            (graph::V, v),
            (graph::OUTPUT, &output),
            (graph::LOG_TOTALS, &log_totals),
        ];
        queue(&self.plans[0], &tensors, vec![(graph::SCALE, self.scale)]);
        (output, log_totals)
    }

    /// Returns the gradients of queries, keys and values.
    pub(super) fn backward(
        &self,
        [q, k, v]: &[CubeTensor; 3],
        output: &CubeTensor,
        log_totals: &CubeTensor,
        grad: &CubeTensor,
    ) -> [CubeTensor; 3] {
        let Problem { batch, heads, kv_heads, queries, keys, head_dim, .. } = self.problem;
        let dq = empty(q, [batch, queries, heads, head_dim], q.dtype);
        let [dk, dv] = [k, v].map(|x| empty(x, [batch, keys, kv_heads, head_dim], x.dtype));
        // Scratch of the graph's own: a number for each query and head, and the gradient of queries while it is summed.
        let sums = empty(q, [batch, heads, queries], DType::F32);
        let dq_sum = empty(q, [batch, heads, queries, head_dim], DType::F32);
        let tensors = [
            (graph::Q, q),
            (graph::K, k),
            (graph::V, v),
            (graph::OUTPUT, output),
            (graph::LOG_TOTALS, log_totals),
            (graph::GRAD, grad),
            (graph::DQ, &dq),
            (graph::DK, &dk),
            (graph::DV, &dv),
            (graph::SUMS, &sums),
            (graph::DQ_SUM, &dq_sum),
        ];
        queue(&self.plans[1], &tensors, vec![(graph::SCALE, self.scale)]);
        [dq, dk, dv]
    }
}
