//! [`Fabric`]: what thread ranks share, and the registry of their groups.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::super::{CommError, CommTimeouts, GroupIdentity, ProcessGroup};
use super::endpoint::Endpoint;
use super::rendezvous::{Failure, Rendezvous};

/// Joins the thread ranks of one process.
///
/// Groups come into being when a member first asks for them: name and members are the same on every
/// member, so nothing needs to be communicated.
#[derive(Debug)]
pub struct Fabric {
    world_size: usize,
    timeouts: CommTimeouts,
    registry: Mutex<Registry>,
}

#[derive(Debug, Default)]
struct Registry {
    groups: BTreeMap<(String, Vec<usize>), Arc<Rendezvous>>,
    failure: Option<Failure>,
    left: BTreeMap<usize, String>,
}

impl Fabric {
    /// Creates the fabric of `world_size` ranks.
    pub fn new(world_size: usize, timeouts: CommTimeouts) -> Arc<Self> {
        Arc::new(Self { world_size, timeouts, registry: Mutex::default() })
    }

    /// Returns the number of ranks.
    pub fn world_size(&self) -> usize {
        self.world_size
    }

    /// Returns the group of all ranks, as `rank` sees it.
    ///
    /// # Errors
    ///
    /// [`CommError::Group`] if there is no such rank.
    pub fn world_group(&self, rank: usize) -> Result<ProcessGroup, CommError> {
        let members: Vec<usize> = (0..self.world_size).collect();
        let labels = members.iter().map(|rank| format!("rank {rank}")).collect();
        self.group(rank, "world", &members, labels)
    }

    /// Returns the group `name` over `members`, as `rank` sees it; `labels` are what messages call
    /// the members.
    ///
    /// # Errors
    ///
    /// [`CommError::Group`] if `rank` is not a member, or a member is named twice or is not a rank
    /// of this world.
    pub fn group(
        &self,
        rank: usize,
        name: &str,
        members: &[usize],
        labels: Arc<[String]>,
    ) -> Result<ProcessGroup, CommError> {
        let problem = |problem: String| CommError::Group { group: name.to_owned(), problem };
        let index = members.iter().position(|member| *member == rank);
        let index = index.ok_or_else(|| {
            problem(format!("rank {rank} asks for it but its members are {members:?}"))
        })?;
        for (place, member) in members.iter().enumerate() {
            if *member >= self.world_size {
                let size = self.world_size;
                return Err(problem(format!("rank {member} is not in a world of {size}")));
            }
            if members[..place].contains(member) {
                return Err(problem(format!("rank {member} stands twice in {members:?}")));
            }
        }
        if labels.len() != members.len() {
            let (labels, members) = (labels.len(), members.len());
            return Err(problem(format!("{labels} labels are given for {members} members")));
        }
        let rendezvous = self.rendezvous(name, members, &labels);
        let endpoint = Arc::new(Endpoint { rendezvous, member: index });
        let identity =
            GroupIdentity { name: name.to_owned(), members: members.to_vec(), labels, index };
        Ok(ProcessGroup::new(endpoint, identity))
    }

    /// Makes every pending and later call of every rank fail because `rank` did.
    pub fn fail(&self, rank: usize, reason: &str) {
        let mut registry = self.lock();
        let failure = Failure::Peer { rank, reason: reason.to_owned() };
        let failure = registry.failure.get_or_insert(failure).clone();
        for group in registry.groups.values() {
            group.fail(failure.clone());
        }
    }

    /// Notes that `rank` has ended well: calls that still wait for it fail.
    pub fn leave(&self, rank: usize) {
        let reason = "finished without joining".to_owned();
        let mut registry = self.lock();
        for group in registry.groups.values() {
            group.leave(rank, &reason);
        }
        registry.left.insert(rank, reason);
    }

    fn rendezvous(&self, name: &str, members: &[usize], labels: &Arc<[String]>) -> Arc<Rendezvous> {
        let mut registry = self.lock();
        let key = (name.to_owned(), members.to_vec());
        if let Some(group) = registry.groups.get(&key) {
            return Arc::clone(group);
        }
        let (name, members) = key.clone();
        let group = Rendezvous::new(name, members, Arc::clone(labels), self.timeouts);
        if let Some(failure) = &registry.failure {
            group.fail(failure.clone());
        }
        for (rank, reason) in &registry.left {
            group.leave(*rank, reason);
        }
        let group = Arc::new(group);
        registry.groups.insert(key, Arc::clone(&group));
        group
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
