//! [`Fabric`]: what joins the ranks of a world, whatever they are.

use std::fmt;
use std::sync::Arc;

use super::{CommError, ProcessGroup};

/// Names the groups along one set of axes: every rank is in exactly one of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupFamily {
    /// Name of the groups, such as `dp_shard`.
    pub name: String,
    /// Global ranks of each group, in the order of their index.
    pub groups: Vec<Vec<usize>>,
}

/// Joins the ranks of a world and makes their groups. A communication backend implements it beside
/// its [`Transport`](super::Transport).
pub trait Fabric: fmt::Debug + Send + Sync {
    /// Returns the number of ranks.
    fn world_size(&self) -> usize;

    /// Makes what the groups of these families need. Every rank calls this with the same families.
    ///
    /// # Communication
    ///
    /// A meeting of all ranks where groups have to be made together; none for thread ranks.
    ///
    /// # Errors
    ///
    /// Ranks that did not come in time.
    fn prepare(&self, families: &[GroupFamily]) -> Result<(), CommError> {
        let _ = families;
        Ok(())
    }

    /// Returns the group `name` over `members`, as `rank` sees it; `labels` are what messages call
    /// the members.
    ///
    /// # Errors
    ///
    /// [`CommError::Group`] if `rank` is not a member, or a member is named twice or is not a rank
    /// of this world.
    fn group(
        &self,
        rank: usize,
        name: &str,
        members: &[usize],
        labels: Arc<[String]>,
    ) -> Result<ProcessGroup, CommError>;

    /// Makes every pending and later call of every rank fail because `rank` did.
    fn fail(&self, rank: usize, reason: &str);

    /// Notes that `rank` has ended well: calls that still wait for it fail.
    fn leave(&self, rank: usize);

    /// Returns what the ranks of other processes said when they ended because one of this process
    /// failed, and waits a few seconds for it; nothing for thread ranks.
    fn last_words(&self) -> Vec<(usize, String)> {
        Vec::new()
    }

    /// Returns the group of all ranks, as `rank` sees it.
    ///
    /// # Errors
    ///
    /// [`CommError::Group`] if there is no such rank.
    fn world_group(&self, rank: usize) -> Result<ProcessGroup, CommError> {
        let members: Vec<usize> = (0..self.world_size()).collect();
        let labels = members.iter().map(|rank| format!("rank {rank}")).collect();
        self.group(rank, "world", &members, labels)
    }
}
