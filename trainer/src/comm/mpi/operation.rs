//! [`Operation`]: which MPI operation, and what its buffers must hold.

use std::ffi::c_int;

use super::super::ReduceOp;

/// An operation to start. Counts and offsets are in elements; `n` members take part.
#[derive(Debug)]
pub(super) enum Operation {
    /// `count` from each to all.
    AllGather { count: usize },
    /// A different number from each to all: what each gives, in order.
    AllGatherV { counts: Vec<usize> },
    /// `count` from each to each.
    AllToAll { count: usize },
    /// To member i what starts at the sum of the counts before it; `own` from each.
    AllToAllV { counts: Vec<usize>, own: usize },
    /// The buffer of the root to all.
    Broadcast { root: usize },
    /// The i-th `count` of the root to member i.
    Scatter { root: usize, count: usize },
    /// `count` from each to the root.
    Gather { root: usize, count: usize },
    /// MPI's own reduction, to all.
    AllReduce { op: ReduceOp },
    /// MPI's own reduction of `count` elements to each.
    ReduceScatter { op: ReduceOp, count: usize },
    /// MPI's own reduction, to the root.
    Reduce { op: ReduceOp, root: usize },
    /// A message to a member.
    Send { to: usize, tag: i32 },
    /// A message from a member.
    Receive { from: usize, tag: i32 },
    /// Nothing but the meeting.
    Barrier,
}

impl Operation {
    /// Asserts that buffers of so many elements fit: the caller is wrong otherwise.
    pub(super) fn check(&self, members: usize, sent: usize, received: Option<usize>) {
        let room = received.unwrap_or(0);
        let fits = match self {
            Self::AllGather { count } => sent == *count && room == count * members,
            Self::AllGatherV { counts } => {
                counts.len() == members
                    && counts.contains(&sent)
                    && room == counts.iter().sum::<usize>()
            }
            Self::AllToAll { count } => sent == count * members && room == sent,
            Self::AllToAllV { counts, own } => {
                counts.len() == members
                    && sent == counts.iter().sum::<usize>()
                    && room == own * members
            }
            Self::Broadcast { .. } | Self::Send { .. } | Self::Receive { .. } => {
                (sent == 0) != (room == 0) || sent + room == 0
            }
            Self::Scatter { count, .. } => room == *count && (sent == 0 || sent == count * members),
            Self::Gather { count, .. } => sent == *count && (room == 0 || room == count * members),
            Self::AllReduce { .. } => room == sent,
            Self::ReduceScatter { count, .. } => sent == count * members && room == *count,
            Self::Reduce { .. } => room == 0 || room == sent,
            Self::Barrier => sent == 0 && room == 0,
        };
        assert!(fits, "{self:?} of {members} does not fit {sent} sent and {received:?} received");
    }

    /// Returns counts and offsets to send and to receive, where the operation takes them.
    pub(super) fn arrays(&self, members: usize) -> Result<[Vec<c_int>; 4], String> {
        let ints = |values: &[usize]| {
            values.iter().map(|value| int(*value)).collect::<Result<Vec<_>, _>>()
        };
        let offsets = |counts: &[usize]| -> Vec<usize> {
            let sum = |place: usize| counts[..place].iter().sum();
            (0..counts.len()).map(sum).collect()
        };
        Ok(match self {
            Self::AllGatherV { counts } => {
                [Vec::new(), Vec::new(), ints(counts)?, ints(&offsets(counts))?]
            }
            Self::AllToAllV { counts, own } => {
                let all = vec![*own; members];
                [ints(counts)?, ints(&offsets(counts))?, ints(&all)?, ints(&offsets(&all))?]
            }
            _ => Default::default(),
        })
    }
}

/// Turns a number into the type in which MPI counts.
pub(super) fn int(value: usize) -> Result<c_int, String> {
    let too_many = |_| format!("{value} elements are more than one MPI call counts");
    c_int::try_from(value).map_err(too_many)
}
