//! cuDNN's graphs of operations, where the library is found at run time.
//!
//! An operation is described as a graph of small ones over tensors; cuDNN answers with a plan, one or several kernels
//! that compute the whole. A plan is for one set of sizes and is kept. Nothing of cuDNN is linked.
//!
//! | file | holds |
//! | --- | --- |
//! | `library` | finding the library, its functions, its errors |
//! | `names` | numbers of the descriptors, attributes and modes that are used |
//! | `descriptor` | one descriptor |
//! | `graph` | tensors and operations |
//! | `plan` | from a graph to a plan, and running it |
//! | `handle` | the library's state on a GPU |
//! | `cache` | plans by GPU and problem |
//!
//! # References
//!
//! NVIDIA, "cuDNN Backend API", release 9.

mod cache;
mod descriptor;
mod graph;
mod handle;
mod library;
mod names;
mod plan;

use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use std::sync::Arc;

pub(crate) use cache::Cache;
pub(crate) use graph::{Graph, Tensor, packed};
pub(crate) use library::{dotted, library};
pub(crate) use names::{ADD, COMPARE_GE, DIVIDE, EXP, IDENTITY, LOG, MULTIPLY, SUBTRACT};
pub(crate) use names::{Element, Fold};
#[cfg(test)]
pub(crate) use plan::Place;
pub(crate) use plan::Plan;

use super::fail;
use crate::backend::driver::Runner;
use crate::kernels::cube::empty;

/// Queues a plan. `tensors` and `numbers` belong to the graph's tensors of those numbers.
///
/// # Panics
///
/// As [`fail`], for what went wrong before.
pub(crate) fn queue(plan: &Arc<Plan>, tensors: &[(i64, &CubeTensor)], numbers: Vec<(i64, f32)>) {
    let first = tensors[0].1;
    let scratch = empty(first, [plan.workspace().div_ceil(size_of::<f32>()).max(1)], DType::F32);
    let mut handles: Vec<_> = tensors.iter().map(|(_, tensor)| tensor.handle.clone()).collect();
    handles.push(scratch.handle.clone());
    let uids: Vec<i64> = tensors.iter().map(|(uid, _)| *uid).collect();
    let plan = Arc::clone(plan);
    let queued = Runner::of(first).queue(handles, move |spans, stream| {
        let (scratch, spans) = spans.split_last().ok_or("a plan has a workspace")?;
        let addresses: Vec<_> =
            uids.iter().zip(spans).map(|(uid, span)| (*uid, span.address)).collect();
        // SAFETY: callers pass tensors of the sizes that the graph names; the workspace was made for the plan; what is
        // queued on the stream later cannot use their memory before the plan has run.
        unsafe { plan.queue(&addresses, &numbers, scratch.address, stream) }
    });
    if let Err(message) = queued {
        fail(&message);
    }
}
