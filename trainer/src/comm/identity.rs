//! [`GroupIdentity`]: which group this is, and who this rank is in it.

use std::sync::Arc;

use super::CommError;

/// Names a group, its members, and the place of this rank among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupIdentity {
    /// Name in messages and reports, such as `dp_shard`.
    pub name: String,
    /// Global ranks of the members, in the order of their index.
    pub members: Vec<usize>,
    /// How messages call each member, with its coordinate where the group has a mesh.
    pub labels: Arc<[String]>,
    /// Index of this rank in `members`.
    pub index: usize,
}

impl GroupIdentity {
    /// Describes the group `name` over `members` as `rank` of a world of `world_size` sees it.
    ///
    /// # Errors
    ///
    /// [`CommError::Group`] if `rank` is not a member, or a member is named twice or is not a rank
    /// of this world.
    pub fn new(
        world_size: usize,
        rank: usize,
        name: &str,
        members: &[usize],
        labels: Arc<[String]>,
    ) -> Result<Self, CommError> {
        let problem = |problem: String| CommError::Group { group: name.to_owned(), problem };
        let index = members.iter().position(|member| *member == rank);
        let index = index.ok_or_else(|| {
            problem(format!("rank {rank} asks for it but its members are {members:?}"))
        })?;
        for (place, member) in members.iter().enumerate() {
            if *member >= world_size {
                return Err(problem(format!("rank {member} is not in a world of {world_size}")));
            }
            if members[..place].contains(member) {
                return Err(problem(format!("rank {member} stands twice in {members:?}")));
            }
        }
        if labels.len() != members.len() {
            let (labels, members) = (labels.len(), members.len());
            return Err(problem(format!("{labels} labels are given for {members} members")));
        }
        Ok(Self { name: name.to_owned(), members: members.to_vec(), labels, index })
    }
}
