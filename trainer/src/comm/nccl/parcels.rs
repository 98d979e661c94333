//! A collective of host data as messages from member to member, which is all that NCCL is asked to
//! move: bytes. Reductions happen on the host, in the order of the members and with the arithmetic of
//! thread ranks, so control numbers are the same bits whatever joins the ranks.

use burn::tensor::{Bytes, DType, TensorData};

use super::super::Collective;
use super::super::local::blocks;
use super::super::local::plan::Plan;

/// Part of a buffer that goes to a member or comes from one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) peer: usize,
    pub(super) offset: usize,
    pub(super) bytes: usize,
}

/// One member's part of a collective.
#[derive(Debug)]
pub(super) struct Parcels {
    collective: Collective,
    plan: Plan,
    dtype: DType,
    members: usize,
    me: usize,
}

impl Parcels {
    /// Plans a validated collective over inputs of `shape`.
    pub(super) fn new(
        collective: Collective,
        (shape, dtype): &(Vec<usize>, DType),
        members: usize,
        me: usize,
    ) -> Self {
        let plan = Plan::new(collective, shape, members);
        Self { collective, plan, dtype: *dtype, members, me }
    }

    fn block(&self) -> usize {
        self.plan.length * self.dtype.size()
    }

    fn is_source(&self) -> bool {
        self.plan.sources.contains(&self.me)
    }

    fn is_target(&self) -> bool {
        self.plan.targets.contains(&self.me)
    }

    /// Returns where the block for a member begins in what [`Self::pack`] returns.
    fn own_offset(&self, target: usize) -> usize {
        let is_cut = self.collective.split_dim().is_some();
        if is_cut { target * self.block() } else { 0 }
    }

    /// Returns what this member sends, as parts of what [`Self::pack`] returns.
    pub(super) fn sends(&self) -> Vec<Message> {
        let others = self.plan.targets.iter().filter(|peer| **peer != self.me);
        let message = |peer: &usize| Message {
            peer: *peer,
            offset: self.own_offset(*peer),
            bytes: self.block(),
        };
        if self.is_source() { messages(others.map(message)) } else { Vec::new() }
    }

    /// Returns what this member receives, as parts of a buffer of [`Self::received_bytes`].
    pub(super) fn receives(&self) -> Vec<Message> {
        let sources = self.plan.sources.iter().enumerate();
        let others = sources.filter(|(_, peer)| **peer != self.me);
        let bytes = self.block();
        let message =
            |(place, peer): (usize, &usize)| Message { peer: *peer, offset: place * bytes, bytes };
        if self.is_target() { messages(others.map(message)) } else { Vec::new() }
    }

    /// Returns the bytes of the blocks of all sources.
    pub(super) fn received_bytes(&self) -> usize {
        if self.is_target() { self.plan.sources.len() * self.block() } else { 0 }
    }

    /// Puts the blocks this member gives together.
    pub(super) fn pack(&self, input: Option<TensorData>) -> Option<Bytes> {
        let input = input.filter(|_| self.is_source());
        input.map(|data| blocks::pack(self.collective, &self.plan, self.members, data))
    }

    /// Returns what this member gets, from what it gave and what it received.
    pub(super) fn finish(self, packed: Option<Bytes>, mut received: Vec<u8>) -> Option<TensorData> {
        let result = self.plan.result.clone();
        if !self.is_target() {
            let is_kept = matches!(self.collective, Collective::Broadcast { .. });
            let packed = packed.filter(|_| is_kept)?;
            return Some(TensorData::from_bytes(packed, result, self.dtype));
        }
        let own_place = self.plan.sources.iter().position(|source| *source == self.me);
        if let (Some(packed), Some(place)) = (&packed, own_place) {
            let (from, to, bytes) = (self.own_offset(self.me), place * self.block(), self.block());
            received[to..to + bytes].copy_from_slice(&packed[from..from + bytes]);
        }
        let (sources, length) = (self.plan.sources.len(), self.plan.length);
        let blocks = TensorData::from_bytes_vec(received, [sources * length], self.dtype);
        Some(match self.collective.reduce_op() {
            Some(op) => blocks::reduce(&blocks, length, op, result),
            None if sources == 1 => TensorData::from_bytes(blocks.into_bytes(), result, self.dtype),
            None => blocks::unpack(&self.plan, self.members, blocks),
        })
    }
}

/// Keeps messages that have something to move.
fn messages(messages: impl Iterator<Item = Message>) -> Vec<Message> {
    messages.filter(|message| message.bytes > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::{CommTimeouts, ReduceOp, launch_threads};

    /// Runs a collective over `n` members that pass each other nothing but messages.
    fn by_messages(
        collective: Collective,
        inputs: &[Option<TensorData>],
    ) -> Vec<Option<TensorData>> {
        let n = inputs.len();
        let given = inputs.iter().flatten().next().expect("some member gives");
        let kind = (given.shape().to_vec(), given.dtype());
        let part = |me| Parcels::new(collective, &kind, n, me);
        let packed: Vec<_> = (0..n).map(|me| part(me).pack(inputs[me].clone())).collect();
        let mut received: Vec<Vec<u8>> =
            (0..n).map(|me| vec![0; part(me).received_bytes()]).collect();
        for (me, received) in received.iter_mut().enumerate() {
            for receive in part(me).receives() {
                let sends = part(receive.peer).sends();
                let sent: Vec<_> = sends.iter().filter(|send| send.peer == me).collect();
                assert_eq!(sent.len(), 1, "{collective}: {receive:?} has one send");
                assert_eq!(sent[0].bytes, receive.bytes, "{collective}");
                let from = packed[receive.peer].as_ref().expect("senders have packed");
                let from = &from[sent[0].offset..sent[0].offset + sent[0].bytes];
                received[receive.offset..receive.offset + receive.bytes].copy_from_slice(from);
            }
        }
        let sent: usize = (0..n).map(|me| part(me).sends().len()).sum();
        let taken: usize = (0..n).map(|me| part(me).receives().len()).sum();
        assert_eq!(sent, taken, "{collective}: every send has a receive");
        let parts = packed.into_iter().zip(received).enumerate();
        parts.map(|(me, (packed, received))| part(me).finish(packed, received)).collect()
    }

    /// The same over thread ranks.
    fn by_threads(
        collective: Collective,
        inputs: &[Option<TensorData>],
    ) -> Vec<Option<TensorData>> {
        let results = launch_threads(inputs.len(), CommTimeouts::default(), |ctx| {
            let (group, input) = (ctx.world_group(), inputs[ctx.rank()].clone());
            let site = std::panic::Location::caller();
            group.issue::<Option<TensorData>>(collective, input, site)?.wait()
        });
        results.expect("the collective works")
    }

    fn input(rank: usize, shape: &[usize], dtype: DType) -> TensorData {
        let count: usize = shape.iter().product();
        let values = (0..count).map(|i| ((i * 7 + rank * 13) % 11) as f32 - 4.3);
        TensorData::new(values.collect::<Vec<_>>(), shape.to_vec()).convert_dtype(dtype)
    }

    #[test]
    fn members_that_pass_messages_get_what_threads_get() {
        for n in [2, 3, 4] {
            let mut calls: Vec<Collective> = Vec::new();
            for op in ReduceOp::ALL {
                calls.push(Collective::AllReduce { op });
                calls.push(Collective::Reduce { root: n - 1, op });
                calls.extend((0..3).map(|dim| Collective::ReduceScatter { dim, op }));
            }
            calls.extend((0..3).map(|dim| Collective::AllGather { dim }));
            for split_dim in 0..3 {
                let pair = |concat_dim| Collective::AllToAll { split_dim, concat_dim };
                calls.extend((0..3).map(pair));
            }
            calls.extend([
                Collective::Broadcast { root: 1 },
                Collective::Scatter { root: 1 },
                Collective::Gather { root: 0 },
            ]);
            for collective in calls {
                for dtype in [DType::F32, DType::BF16, DType::F64, DType::I64] {
                    if collective.reduce_op() == Some(ReduceOp::Avg) && dtype == DType::I64 {
                        continue;
                    }
                    for rows in [0, 12] {
                        let gives = |rank: usize| match collective {
                            Collective::Scatter { root } => rank == root,
                            _ => true,
                        };
                        let inputs: Vec<_> = (0..n)
                            .map(|rank| gives(rank).then(|| input(rank, &[rows, 12, 24], dtype)))
                            .collect();
                        let (ours, theirs) =
                            (by_messages(collective, &inputs), by_threads(collective, &inputs));
                        assert_eq!(ours, theirs, "{collective} of {dtype:?} on {n}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_barrier_moves_nothing() {
        let barrier = Parcels::new(Collective::Barrier, &(Vec::new(), DType::U8), 3, 1);
        assert_eq!((barrier.sends(), barrier.receives()), (Vec::new(), Vec::new()));
        assert_eq!(barrier.finish(None, Vec::new()), None);
    }
}
