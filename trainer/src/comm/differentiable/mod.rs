//! Collectives that carry gradients: each is a linear map over the ranks, and its backward is the
//! adjoint map.
//!
//! | operation | before | after | backward |
//! | --- | --- | --- | --- |
//! | [`copy`] | the same value everywhere | unchanged | all-reduce: the sum of what every rank computed from it |
//! | [`all_reduce`] | a term per rank | the sum everywhere | nothing for a replicated consumer, all-reduce for distinct ones |
//! | [`all_gather`] | a part per rank | the whole everywhere | the own part for a replicated consumer, reduce-scatter for distinct ones |
//! | [`reduce_scatter`] | a term per rank, in full shape | the own part of the sum | all-gather |
//! | [`all_to_all`] | a part along one dimension | a part along another | all-to-all, the dimensions swapped |
//! | [`slice()`] | the same value everywhere | the own part | all-gather |
//! | [`broadcast`], [`reduce`] | a value on the root, a term per rank | the same everywhere, the sum on the root | each other |
//! | [`scatter`], [`gather`] | a value on the root, a part per rank | the own part, the whole on the root | each other |
//! | [`send`], [`recv`] | a value here, on the peer | on the peer, here | each other, the other way round |
//! | [`redistribute`] | any [`Placement`](crate::mesh::Placement) | any other | the redistribution of the gradient |
//!
//! A gradient here is that of one loss which every rank of the group holds and starts its backward
//! from. Who uses a replicated result decides how its gradient comes back: see [`Consumer`].
//!
//! Forward and backward of all members must make the same calls in the same order; both follow from
//! the order of the graph, which is the same on all ranks that run the same model. A failure cannot
//! be returned from inside a backward pass: it is raised as a panic whose payload is the
//! [`CommError`](super::CommError), which [`launch_threads`](super::launch_threads) turns back into
//! that error. Ranks that are threads must not share a leaf of the graph. A group of one records
//! nothing and changes nothing.
//!
//! # References
//!
//! Megatron-LM, arXiv:1909.08053, section 3 (*f* is [`copy`], *g* is [`all_reduce`] for a
//! replicated consumer); Reducing Activation Recomputation in Large Transformer Models,
//! arXiv:2205.05198, section 4.2 (the gather and the reduce-scatter of sequence parallelism).

mod functions;
mod issued;
mod operation;
mod redistribute;
mod transfer;

pub use functions::{
    Consumer, all_gather, all_reduce, all_to_all, broadcast, copy, gather, recv, reduce,
    reduce_scatter, scatter, send, slice,
};
pub use issued::{Issued, issue_all_gather, issue_reduce_scatter};
pub use redistribute::{NotDifferentiable, redistribute};
pub use transfer::raise;
