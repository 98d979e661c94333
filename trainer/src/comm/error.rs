//! [`CommError`]: how communication fails. Members of a group that failed get the same variant; where
//! they are processes, the rank where it happened may be the only one that has the details, and the
//! others get its words in [`CommError::PeerFailed`].

use std::fmt;
use std::time::Duration;

use super::CallProblem;

/// Describes one side of a disagreement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Side {
    /// The rank, with its coordinate where the group has a mesh.
    pub member: String,
    /// What it called, and where.
    pub call: String,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} called {}", self.member, self.call)
    }
}

/// Describes why ranks could not communicate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommError {
    /// Two members made different calls under one sequence number.
    #[error("call {sequence} of group `{group}` differs between ranks: {first}, but {second}")]
    Mismatch {
        /// The group.
        group: String,
        /// The sequence number, from 0.
        sequence: u64,
        /// The member that came first.
        first: Box<Side>,
        /// The member that differs.
        second: Box<Side>,
    },
    /// Members did not come in time.
    #[error(
        "call {sequence} of group `{group}`, {call}, waited {waited:?} for {}", .missing.join(", ")
    )]
    Timeout {
        /// The group.
        group: String,
        /// The sequence number, from 0; of the channel for a receive.
        sequence: u64,
        /// What was called, and where.
        call: String,
        /// How long it waited.
        waited: Duration,
        /// The members that did not come.
        missing: Vec<String>,
    },
    /// Another rank failed, or left before it had made the calls its peers wait for.
    #[error("{during} stopped because rank {rank} {reason}")]
    PeerFailed {
        /// The rank that failed.
        rank: usize,
        /// What happened to it.
        reason: String,
        /// What this rank was doing, and in which group.
        during: String,
    },
    /// A member made a call that cannot be carried out.
    #[error("{member} called {call} in group `{group}`: {problem}")]
    Rejected {
        /// The group.
        group: String,
        /// The member that made the call.
        member: String,
        /// What it called, and where.
        call: String,
        /// What is wrong with it.
        problem: CallProblem,
    },
    /// The library that carries the messages failed.
    #[error("{during} in group `{group}` failed in {library}: {message}")]
    Library {
        /// The group.
        group: String,
        /// The library.
        library: &'static str,
        /// What this rank was doing.
        during: String,
        /// What the library said.
        message: String,
    },
    /// A group was asked for that cannot exist.
    #[error("group `{group}` cannot be made: {problem}")]
    Group {
        /// The group.
        group: String,
        /// What is wrong.
        problem: String,
    },
}

#[cfg(any(feature = "mpi", feature = "cuda"))]
impl CommError {
    /// Says that processes cannot make a group that not all of them have prepared.
    pub(crate) fn unprepared(group: &str) -> Self {
        let problem = "processes make groups together, and this one was not prepared".to_owned();
        Self::Group { group: group.to_owned(), problem }
    }
}
