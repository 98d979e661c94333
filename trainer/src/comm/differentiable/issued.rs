//! Collectives that were issued and whose tensor is still to come.

use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::Tensor;

use super::operation::{Pair, finish};
use super::transfer::{Transfer, raise};
use crate::comm::{Collective, Erased, ProcessGroup, ReduceOp, TensorWork};

/// A result under way, shared by the clones an operation makes of its arguments and taken once.
#[derive(Debug, Clone)]
pub(crate) struct Arrival(Arc<Mutex<Option<TensorWork>>>);

impl Arrival {
    pub(super) fn take(&self) -> Option<TensorWork> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Stands for a differentiable collective that was issued.
#[derive(Debug)]
#[must_use = "the result is only there after `wait`"]
pub struct Issued<const D: usize> {
    input: Tensor<D>,
    pair: Pair,
    arrival: Option<Arrival>,
}

impl<const D: usize> Issued<D> {
    /// Waits for the result and records the operation.
    pub fn wait(self) -> Tensor<D> {
        match self.arrival {
            Some(arrival) => finish(self.input, self.pair, arrival),
            None => self.input,
        }
    }
}

/// Issues an [`all_gather`](super::all_gather) for distinct consumers.
pub fn issue_all_gather<const D: usize>(
    x: Tensor<D>,
    dim: usize,
    group: &ProcessGroup,
) -> Issued<D> {
    issue(x, Transfer::Gather(dim), Transfer::SumScatter(dim), group)
}

/// Issues a [`reduce_scatter`](super::reduce_scatter).
pub fn issue_reduce_scatter<const D: usize>(
    x: Tensor<D>,
    dim: usize,
    group: &ProcessGroup,
) -> Issued<D> {
    issue(x, Transfer::SumScatter(dim), Transfer::Gather(dim), group)
}

fn issue<const D: usize>(
    x: Tensor<D>,
    forward: Transfer,
    backward: Transfer,
    group: &ProcessGroup,
) -> Issued<D> {
    let pair = Pair { forward, backward, group: group.clone() };
    if group.size() == 1 {
        return Issued { input: x, pair, arrival: None };
    }
    let collective = match forward {
        Transfer::Gather(dim) => Collective::AllGather { dim },
        Transfer::SumScatter(dim) => Collective::ReduceScatter { dim, op: ReduceOp::Sum },
        _ => unreachable!("only these two are issued"),
    };
    match group.issue_with(collective, Erased::new(x.clone().inner())) {
        Ok(work) => {
            Issued { input: x, pair, arrival: Some(Arrival(Arc::new(Mutex::new(Some(work))))) }
        }
        Err(error) => raise(error),
    }
}
