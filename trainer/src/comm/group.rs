//! [`ProcessGroup`]: the collectives as ranks call them.

use std::fmt;
use std::panic::Location;
use std::sync::Arc;

use burn::tensor::TensorData;

use super::work::{InFlight, Outcome};
use super::{
    Call, Collective, CommCounters, CommError, GroupIdentity, Pending, ReduceOp, Transport, Work,
    nominal_bytes,
};

/// Connects one rank with the other members of a group.
///
/// Ranks, roots and peers in the methods are indices in the group, `0..size()`. Every collective
/// exists twice: the plain form waits for the result, the `issue_` form returns [`Work`] at once.
/// All members make the same calls in the same order. Buffers are reused where an input has the
/// size of the output, and a group of one returns every input untouched.
///
/// Clones share the sequence of calls.
#[derive(Clone)]
pub struct ProcessGroup {
    transport: Arc<dyn Transport>,
    identity: Arc<GroupIdentity>,
    counters: Arc<CommCounters>,
}

impl ProcessGroup {
    /// Builds a group over a transport.
    pub fn new(transport: Arc<dyn Transport>, identity: GroupIdentity) -> Self {
        Self { transport, identity: Arc::new(identity), counters: Arc::default() }
    }

    /// Returns the number of members.
    pub fn size(&self) -> usize {
        self.identity.members.len()
    }

    /// Returns the index of this rank in the group.
    pub fn rank(&self) -> usize {
        self.identity.index
    }

    /// Returns the global ranks of the members.
    pub fn members(&self) -> &[usize] {
        &self.identity.members
    }

    /// Returns the name of the group.
    pub fn name(&self) -> &str {
        &self.identity.name
    }

    /// Returns how often this rank used the group.
    pub fn counters(&self) -> &CommCounters {
        &self.counters
    }

    /// Returns the reduction of all inputs, bitwise the same on every member.
    ///
    /// # Shapes
    ///
    /// Any shape, equal on all members, to the same shape.
    ///
    /// # Communication
    ///
    /// Every member reduces some of the chunks over all inputs in the order of the members. f16 and
    /// bf16 reduce in f32 and round once. The f32 error of a sum is at most (n - 1) eps sum|x|.
    ///
    /// # Errors
    ///
    /// See [`CommError`].
    #[track_caller]
    pub fn all_reduce(&self, data: TensorData, op: ReduceOp) -> Result<TensorData, CommError> {
        self.issue_all_reduce(data, op)?.wait()
    }

    /// Issues [`Self::all_reduce`].
    #[track_caller]
    pub fn issue_all_reduce(&self, data: TensorData, op: ReduceOp) -> Result<Work, CommError> {
        self.issue(Collective::AllReduce { op }, Some(data), Location::caller())
    }

    /// Returns all inputs, concatenated along `dim` in the order of the members.
    ///
    /// # Shapes
    ///
    /// `[.., d, ..]`, equal on all members, to `[.., n d, ..]`.
    #[track_caller]
    pub fn all_gather(&self, data: TensorData, dim: usize) -> Result<TensorData, CommError> {
        self.issue_all_gather(data, dim)?.wait()
    }

    /// Issues [`Self::all_gather`].
    #[track_caller]
    pub fn issue_all_gather(&self, data: TensorData, dim: usize) -> Result<Work, CommError> {
        self.issue(Collective::AllGather { dim }, Some(data), Location::caller())
    }

    /// Returns this member's equal part along `dim` of the reduction of all inputs.
    ///
    /// # Shapes
    ///
    /// `[.., n d, ..]`, equal on all members, to `[.., d, ..]`; a size that does not divide is an
    /// error on all members.
    #[track_caller]
    pub fn reduce_scatter(
        &self,
        data: TensorData,
        dim: usize,
        op: ReduceOp,
    ) -> Result<TensorData, CommError> {
        self.issue_reduce_scatter(data, dim, op)?.wait()
    }

    /// Issues [`Self::reduce_scatter`].
    #[track_caller]
    pub fn issue_reduce_scatter(
        &self,
        data: TensorData,
        dim: usize,
        op: ReduceOp,
    ) -> Result<Work, CommError> {
        self.issue(Collective::ReduceScatter { dim, op }, Some(data), Location::caller())
    }

    /// Returns this member's equal part along `split_dim` of every input, concatenated along
    /// `concat_dim`.
    ///
    /// # Shapes
    ///
    /// `split_dim` shrinks to its n-th part, then `concat_dim` grows n-fold; equal dimensions keep
    /// the shape.
    #[track_caller]
    pub fn all_to_all(
        &self,
        data: TensorData,
        split_dim: usize,
        concat_dim: usize,
    ) -> Result<TensorData, CommError> {
        self.issue_all_to_all(data, split_dim, concat_dim)?.wait()
    }

    /// Issues [`Self::all_to_all`].
    #[track_caller]
    pub fn issue_all_to_all(
        &self,
        data: TensorData,
        split_dim: usize,
        concat_dim: usize,
    ) -> Result<Work, CommError> {
        let collective = Collective::AllToAll { split_dim, concat_dim };
        self.issue(collective, Some(data), Location::caller())
    }

    /// Returns the input of `root`, written over the inputs of the others.
    #[track_caller]
    pub fn broadcast(&self, data: TensorData, root: usize) -> Result<TensorData, CommError> {
        self.issue_broadcast(data, root)?.wait()
    }

    /// Issues [`Self::broadcast`].
    #[track_caller]
    pub fn issue_broadcast(&self, data: TensorData, root: usize) -> Result<Work, CommError> {
        self.issue(Collective::Broadcast { root }, Some(data), Location::caller())
    }

    /// Returns this member's equal part along dimension 0 of the tensor that `root`, and only
    /// `root`, gives.
    #[track_caller]
    pub fn scatter(&self, data: Option<TensorData>, root: usize) -> Result<TensorData, CommError> {
        self.issue_scatter(data, root)?.wait()
    }

    /// Issues [`Self::scatter`].
    #[track_caller]
    pub fn issue_scatter(&self, data: Option<TensorData>, root: usize) -> Result<Work, CommError> {
        self.issue(Collective::Scatter { root }, data, Location::caller())
    }

    /// Returns all inputs on `root`, concatenated along dimension 0, and nothing elsewhere.
    #[track_caller]
    pub fn gather(&self, data: TensorData, root: usize) -> Result<Option<TensorData>, CommError> {
        self.issue_gather(data, root)?.wait()
    }

    /// Issues [`Self::gather`].
    #[track_caller]
    pub fn issue_gather(
        &self,
        data: TensorData,
        root: usize,
    ) -> Result<Work<Option<TensorData>>, CommError> {
        self.issue(Collective::Gather { root }, Some(data), Location::caller())
    }

    /// Returns the reduction of all inputs on `root` and nothing elsewhere.
    #[track_caller]
    pub fn reduce(
        &self,
        data: TensorData,
        root: usize,
        op: ReduceOp,
    ) -> Result<Option<TensorData>, CommError> {
        self.issue_reduce(data, root, op)?.wait()
    }

    /// Issues [`Self::reduce`].
    #[track_caller]
    pub fn issue_reduce(
        &self,
        data: TensorData,
        root: usize,
        op: ReduceOp,
    ) -> Result<Work<Option<TensorData>>, CommError> {
        self.issue(Collective::Reduce { root, op }, Some(data), Location::caller())
    }

    /// Waits until every member has come.
    #[track_caller]
    pub fn barrier(&self) -> Result<(), CommError> {
        self.issue_barrier()?.wait()
    }

    /// Issues [`Self::barrier`].
    #[track_caller]
    pub fn issue_barrier(&self) -> Result<Work<()>, CommError> {
        self.issue(Collective::Barrier, None, Location::caller())
    }

    /// Hands a tensor to member `to` under `tag` and returns without waiting for it to be received.
    #[track_caller]
    pub fn send(&self, data: TensorData, to: usize, tag: u64) -> Result<(), CommError> {
        self.check_member(to, "send", Location::caller())?;
        self.counters.record(CommCounters::SEND, data.as_bytes().len());
        self.transport.send(data, to, tag)
    }

    /// Returns the next tensor that member `from` sends under `tag`.
    #[track_caller]
    pub fn recv(&self, from: usize, tag: u64) -> Result<TensorData, CommError> {
        self.issue_recv(from, tag)?.wait()
    }

    /// Issues [`Self::recv`]; several receives under one tag get the tensors in the order they were
    /// issued.
    #[track_caller]
    pub fn issue_recv(&self, from: usize, tag: u64) -> Result<Work, CommError> {
        let site = Location::caller();
        self.check_member(from, "recv", site)?;
        let inner = self.transport.post_receive(from, tag, site)?;
        let counted = CountedReceive { inner, counters: Arc::clone(&self.counters) };
        let span = tracing::trace_span!("in_flight", op = "recv", group = self.name(), from);
        let in_flight = InFlight::new(span, Arc::clone(&self.counters));
        Ok(Work::pending(Box::new(counted), in_flight))
    }

    /// Reduces a few numbers in place, for control rather than for tensors.
    #[track_caller]
    pub fn all_reduce_scalars(&self, values: &mut [f64], op: ReduceOp) -> Result<(), CommError> {
        let data = TensorData::new(values.to_vec(), [values.len()]);
        let reduced = self.all_reduce(data, op)?;
        values.copy_from_slice(reduced.as_slice().expect("a reduction keeps the element type"));
        Ok(())
    }

    pub(super) fn issue<T: Outcome>(
        &self,
        collective: Collective,
        input: Option<TensorData>,
        site: &'static Location<'static>,
    ) -> Result<Work<T>, CommError> {
        let call = self.admit(Call::new(collective, input.as_ref(), site))?;
        if self.size() == 1 {
            return Ok(Work::done(input));
        }
        let in_flight = self.in_flight(&call);
        Ok(Work::pending(self.transport.issue(call, input)?, in_flight))
    }

    /// Checks a call alone and counts it.
    pub(super) fn admit(&self, call: Call) -> Result<Call, CommError> {
        if let Err(problem) = call.validate(self.rank(), self.size()) {
            return Err(self.reject(call.to_string(), problem));
        }
        let collective = &call.collective;
        let bytes = nominal_bytes(collective, call.num_bytes(), self.size());
        self.counters.record(collective.index(), bytes);
        Ok(call)
    }

    /// Starts the span and the clock of an admitted call.
    pub(super) fn in_flight(&self, call: &Call) -> InFlight {
        let (op, group) = (call.collective.name(), self.name());
        let bytes = nominal_bytes(&call.collective, call.num_bytes(), self.size());
        let span = tracing::trace_span!("in_flight", op, group, bytes);
        InFlight::new(span, Arc::clone(&self.counters))
    }

    pub(super) fn transport(&self) -> &dyn Transport {
        &*self.transport
    }

    fn check_member(
        &self,
        member: usize,
        operation: &str,
        site: &'static Location<'static>,
    ) -> Result<(), CommError> {
        if member < self.size() {
            return Ok(());
        }
        let problem = super::CallProblem::NoSuchMember { member, size: self.size() };
        Err(self.reject(format!("{operation} at {}:{}", site.file(), site.line()), problem))
    }

    /// Fails the whole group: a call that one member cannot make is one that its peers wait for in
    /// vain.
    fn reject(&self, call: String, problem: super::CallProblem) -> CommError {
        let error = CommError::Rejected {
            group: self.identity.name.clone(),
            member: self.identity.labels[self.identity.index].clone(),
            call,
            problem,
        };
        self.transport.abort(error.clone());
        error
    }
}

impl fmt::Debug for ProcessGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessGroup")
            .field("name", &self.identity.name)
            .field("members", &self.identity.members)
            .field("rank", &self.identity.index)
            .finish_non_exhaustive()
    }
}

/// Counts a receive when its size is known.
#[derive(Debug)]
struct CountedReceive {
    inner: Box<dyn Pending>,
    counters: Arc<CommCounters>,
}

impl Pending for CountedReceive {
    fn wait(self: Box<Self>) -> Result<Option<TensorData>, CommError> {
        let received = self.inner.wait()?;
        let bytes = received.as_ref().map_or(0, |data| data.bytes().len());
        self.counters.record(CommCounters::RECV, bytes);
        Ok(received)
    }
}
