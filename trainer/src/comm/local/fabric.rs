//! [`ThreadFabric`]: what thread ranks share, and the registry of their groups.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::super::{CommError, CommTimeouts, Fabric, GroupIdentity, ProcessGroup};
use super::endpoint::Endpoint;
use super::rendezvous::{Failure, Rendezvous};

/// Joins the thread ranks of one process.
///
/// Groups come into being when a member first asks for them: name and members are the same on every
/// member, so nothing needs to be communicated.
#[derive(Debug)]
pub struct ThreadFabric {
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

impl ThreadFabric {
    /// Creates the fabric of `world_size` ranks.
    pub fn new(world_size: usize, timeouts: CommTimeouts) -> Arc<Self> {
        Arc::new(Self { world_size, timeouts, registry: Mutex::default() })
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

impl Fabric for ThreadFabric {
    fn world_size(&self) -> usize {
        self.world_size
    }

    fn group(
        &self,
        rank: usize,
        name: &str,
        members: &[usize],
        labels: Arc<[String]>,
    ) -> Result<ProcessGroup, CommError> {
        let identity = GroupIdentity::new(self.world_size, rank, name, members, labels)?;
        let rendezvous = self.rendezvous(name, members, &identity.labels);
        let endpoint = Arc::new(Endpoint { rendezvous, member: identity.index });
        Ok(ProcessGroup::new(endpoint, identity))
    }

    fn fail(&self, rank: usize, reason: &str) {
        let mut registry = self.lock();
        let failure = Failure::Peer { rank, reason: reason.to_owned() };
        let failure = registry.failure.get_or_insert(failure).clone();
        for group in registry.groups.values() {
            group.fail(failure.clone());
        }
    }

    fn leave(&self, rank: usize) {
        let reason = "finished without joining".to_owned();
        let mut registry = self.lock();
        for group in registry.groups.values() {
            group.leave(rank, &reason);
        }
        registry.left.insert(rank, reason);
    }
}
