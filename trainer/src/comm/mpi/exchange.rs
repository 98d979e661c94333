//! A collective as MPI operations: what is packed and sent, what is done with what comes, and what
//! follows.
//!
//! Reductions in the order of the members go as an all-to-all of chunks, a local reduction of this
//! member's chunk, and an all-gather of the results: as many bytes as a ring moves, and the same
//! numbers as the thread backend, whose arithmetic it uses.

use burn::tensor::{DType, TensorData};

use super::super::local::blocks;
use super::super::local::plan::Plan;
use super::super::{Collective, ReduceOp, Reduction};
use super::library::{Communicator, Library, Request};
use super::operation::Operation;

/// Bytes that all members together receive at most in the reduction of small tensors, which gathers
/// everything everywhere and is done after one operation instead of two.
const SMALL_BYTES: usize = 64 << 10;

/// A collective under way, whose members agree on it.
pub(super) struct Exchange {
    collective: Collective,
    plan: Plan,
    shape: Vec<usize>,
    dtype: DType,
    members: usize,
    me: usize,
    reduction: Reduction,
    stage: Stage,
}

enum Stage {
    /// The only operation, or the first of two.
    First(Request),
    /// The all-gather of reduced chunks.
    Second(Request),
    Done(Option<TensorData>),
}

/// Which member of how many this is, and who reduces.
#[derive(Debug, Clone, Copy)]
pub(super) struct Member {
    pub(super) index: usize,
    pub(super) of: usize,
    pub(super) reduction: Reduction,
}

impl Exchange {
    /// Starts a validated collective over tensors of `shape`.
    pub(super) fn start(
        library: &mut Library,
        on: &Communicator,
        collective: Collective,
        (shape, dtype): (Vec<usize>, DType),
        input: Option<TensorData>,
        member: Member,
    ) -> Result<Self, String> {
        let plan = Plan::new(collective, &shape, member.of);
        let mut exchange = Self {
            collective,
            plan,
            shape,
            dtype,
            members: member.of,
            me: member.index,
            reduction: member.reduction,
            stage: Stage::Done(None),
        };
        exchange.stage = exchange.first(library, on, input)?;
        Ok(exchange)
    }

    /// Tells whether another operation will be started.
    pub(super) fn has_more_to_start(&self) -> bool {
        matches!((&self.stage, self.chunks()), (Stage::First(_), Some(_)))
    }

    /// Goes as far as it can; returns true at the end.
    pub(super) fn advance(
        &mut self,
        library: &mut Library,
        on: &Communicator,
    ) -> Result<bool, String> {
        loop {
            let (Stage::First(request) | Stage::Second(request)) = &mut self.stage else {
                return Ok(true);
            };
            if !request.test(library)? {
                return Ok(false);
            }
            self.stage = match std::mem::replace(&mut self.stage, Stage::Done(None)) {
                Stage::First(request) => self.after_first(library, on, request)?,
                Stage::Second(request) => {
                    Stage::Done(request.into_received(self.shape.clone(), self.dtype))
                }
                done @ Stage::Done(_) => done,
            };
        }
    }

    /// Returns what this member gets, after the end.
    pub(super) fn into_result(self) -> Option<TensorData> {
        match self.stage {
            Stage::Done(result) => result,
            Stage::First(_) | Stage::Second(_) => None,
        }
    }

    fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether MPI's own reduction means the same: it has no halves, and its maximum may drop a NaN.
    fn is_left_to_library(&self, op: ReduceOp) -> bool {
        let is_integer = matches!(self.dtype, DType::I32 | DType::I64);
        let is_float = matches!(self.dtype, DType::F32 | DType::F64);
        let orders = matches!(op, ReduceOp::Max | ReduceOp::Min);
        self.reduction == Reduction::Library && (is_integer || (is_float && !orders))
    }

    /// Returns the chunk of each member, if this is a reduction in two operations.
    fn chunks(&self) -> Option<Vec<usize>> {
        let Collective::AllReduce { op } = self.collective else { return None };
        let (elements, n) = (self.elements(), self.members);
        if self.is_left_to_library(op) || n * elements * self.dtype.size() <= SMALL_BYTES {
            return None;
        }
        let chunk = elements.div_ceil(n);
        Some((0..n).map(|i| chunk.min(elements.saturating_sub(i * chunk))).collect())
    }

    /// Starts the first operation, or ends at once where there is nothing to move.
    fn first(
        &self,
        library: &mut Library,
        on: &Communicator,
        input: Option<TensorData>,
    ) -> Result<Stage, String> {
        let n = self.members;
        let is_target = self.plan.targets.contains(&self.me);
        if matches!(self.collective, Collective::Barrier) {
            return Ok(Stage::Done(None));
        }
        if self.elements() == 0 {
            let gets = is_target || matches!(self.collective, Collective::Broadcast { .. });
            let empty =
                || TensorData::from_bytes_vec(Vec::new(), self.plan.result.clone(), self.dtype);
            return Ok(Stage::Done(gets.then(empty)));
        }
        let (count, elements) = (self.plan.length, self.elements());
        let (operation, receives) = match self.collective {
            Collective::AllReduce { op } if self.is_left_to_library(op) => {
                (Operation::AllReduce { op }, Some(elements))
            }
            Collective::AllReduce { .. } => match self.chunks() {
                Some(counts) => {
                    let own = counts[self.me];
                    (Operation::AllToAllV { counts, own }, Some(n * own))
                }
                None => (Operation::AllGather { count }, Some(n * count)),
            },
            Collective::AllGather { .. } => (Operation::AllGather { count }, Some(n * count)),
            Collective::ReduceScatter { op, .. } if self.is_left_to_library(op) => {
                (Operation::ReduceScatter { op, count }, Some(count))
            }
            Collective::ReduceScatter { .. } | Collective::AllToAll { .. } => {
                (Operation::AllToAll { count }, Some(n * count))
            }
            Collective::Broadcast { root } => {
                (Operation::Broadcast { root }, (root != self.me).then_some(elements))
            }
            Collective::Scatter { root } => (Operation::Scatter { root, count }, Some(count)),
            Collective::Reduce { root, op } if self.is_left_to_library(op) => {
                (Operation::Reduce { op, root }, is_target.then_some(elements))
            }
            Collective::Gather { root } | Collective::Reduce { root, .. } => {
                (Operation::Gather { root, count }, is_target.then_some(n * count))
            }
            Collective::Barrier => unreachable!("done above"),
        };
        let sends = !matches!(operation, Operation::Broadcast { .. }) || receives.is_none();
        let send = input.filter(|_| sends);
        let send = send.map(|data| blocks::pack(self.collective, &self.plan, n, data));
        Request::start(library, on, &operation, send, receives, self.dtype).map(Stage::First)
    }

    fn after_first(
        &self,
        library: &mut Library,
        on: &Communicator,
        request: Request,
    ) -> Result<Stage, String> {
        let n = self.members;
        if let Some(counts) = self.chunks() {
            let own = counts[self.me];
            let blocks = request.into_received(vec![n * own], self.dtype);
            let chunk = self.reduce(blocks.as_ref(), own, vec![own]);
            let send = chunk.map(TensorData::into_bytes);
            let operation = Operation::AllGatherV { counts };
            let received = Some(self.elements());
            let request = Request::start(library, on, &operation, send, received, self.dtype)?;
            return Ok(Stage::Second(request));
        }
        let result = self.plan.result.clone();
        let count = self.plan.length;
        Ok(Stage::Done(match self.collective {
            Collective::Broadcast { root } if root == self.me => {
                let bytes = request.into_sent();
                bytes.map(|bytes| TensorData::from_bytes(bytes, result, self.dtype))
            }
            Collective::Broadcast { .. } | Collective::Scatter { .. } => {
                request.into_received(result, self.dtype)
            }
            Collective::AllReduce { op }
            | Collective::ReduceScatter { op, .. }
            | Collective::Reduce { op, .. }
                if self.is_left_to_library(op) =>
            {
                let sum = request.into_received(result, self.dtype);
                sum.map(|sum| if op == ReduceOp::Avg { average(sum, n) } else { sum })
            }
            Collective::AllReduce { .. }
            | Collective::ReduceScatter { .. }
            | Collective::Reduce { .. } => {
                let blocks = request.into_received(vec![n * count], self.dtype);
                self.reduce(blocks.as_ref(), count, result)
            }
            _ => {
                let blocks = request.into_received(vec![n * count], self.dtype);
                blocks.map(|blocks| blocks::unpack(&self.plan, n, blocks))
            }
        }))
    }

    /// Reduces blocks of `length` elements, one of each member, in the order of the members.
    fn reduce(
        &self,
        blocks: Option<&TensorData>,
        length: usize,
        shape: Vec<usize>,
    ) -> Option<TensorData> {
        let (blocks, op) = (blocks?, self.collective.reduce_op()?);
        Some(blocks::reduce(blocks, length, op, shape))
    }
}

/// Divides a sum of floats by the number of its terms.
fn average(mut sum: TensorData, members: usize) -> TensorData {
    if let Ok(values) = sum.as_mut_slice::<f32>() {
        for value in values {
            *value /= members as f32;
        }
    } else if let Ok(values) = sum.as_mut_slice::<f64>() {
        for value in values {
            *value /= members as f64;
        }
    }
    sum
}
