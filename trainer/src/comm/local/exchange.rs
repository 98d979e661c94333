//! Collectives of device tensors between ranks that share a process: every member sees the inputs
//! of all and computes what it gets on its own device.

use std::sync::Arc;

use burn::tensor::{DType, Device, Tensor};

use super::super::{Collective, Erased, ReduceOp};
use crate::backend::Settled;

/// The inputs of all members, in their order.
pub(crate) type Inputs = Arc<[Option<Settled>]>;

/// Computes what a member gets.
///
/// Reductions run in the order of the members, so that all get the same bits on equal devices.
pub(super) fn result(
    collective: Collective,
    inputs: &Inputs,
    member: usize,
    device: &Device,
) -> Option<Erased> {
    let n = inputs.len();
    let here = |input: &Settled| input.clone().adopt().moved_to(device);
    let all = || -> Vec<Erased> { inputs.iter().flatten().map(here).collect() };
    let of = |root: usize| inputs[root].as_ref().map(here);
    let own_part = |tensor: Erased, dim: usize| {
        let len = tensor.shape()[dim] / n;
        tensor.narrow(dim, member * len, len)
    };
    match collective {
        Collective::AllReduce { op } => Some(reduce(all(), op)),
        Collective::AllGather { dim } => Some(Erased::cat(all(), dim)),
        Collective::ReduceScatter { dim, op } => {
            let parts = all().into_iter().map(|tensor| own_part(tensor, dim));
            Some(reduce(parts.collect(), op))
        }
        Collective::AllToAll { split_dim, concat_dim } => {
            let parts = all().into_iter().map(|tensor| own_part(tensor, split_dim));
            Some(Erased::cat(parts.collect(), concat_dim))
        }
        Collective::Broadcast { root } => of(root),
        Collective::Scatter { root } => of(root).map(|tensor| own_part(tensor, 0)),
        Collective::Gather { root } => (root == member).then(|| Erased::cat(all(), 0)),
        Collective::Reduce { root, op } => (root == member).then(|| reduce(all(), op)),
        Collective::Barrier => None,
    }
}

/// Combines tensors in their order; 16-bit types in `f32`, rounded once.
///
/// # Panics
///
/// If there is none.
fn reduce(tensors: Vec<Erased>, op: ReduceOp) -> Erased {
    let (count, dtype) = (tensors.len(), tensors[0].dtype());
    let wide = if dtype.size() < DType::F32.size() { DType::F32 } else { dtype };
    let tensors = tensors.into_iter().map(|tensor| tensor.cast(wide).into_any_rank());
    let combine = |a: Tensor<1>, b: Tensor<1>| match op {
        ReduceOp::Sum | ReduceOp::Avg => a + b,
        ReduceOp::Prod => a * b,
        ReduceOp::Max => a.max_pair(b),
        ReduceOp::Min => a.min_pair(b),
    };
    let total = tensors.reduce(combine).expect("a reduction has inputs");
    let total = if op == ReduceOp::Avg { total / count as f64 } else { total };
    Erased::new(total).cast(dtype)
}
