//! [`NcclFabric`]: the communicators of a rank's groups, and its ends of them.

use std::collections::BTreeSet;
use std::fmt;
use std::panic::Location;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use burn::tensor::{Device, TensorData};
use xxhash_rust::xxh3::xxh3_64;

use super::super::local::rendezvous::Failure;
use super::super::{
    Call, CommError, CommTimeouts, DeviceTransport, Erased, Fabric, GroupFamily, GroupIdentity,
    Pending, PendingTensor, ProcessGroup, Transport,
};
use super::host::Group;
use super::library::Communicator;
use super::line::{Line, Pause, Shared};
use super::mail::Mail;
use crate::backend::driver::Gpu;

/// The communicator of all ranks from which others are split; nothing moves on it.
pub(super) type Parent = Arc<Mutex<Communicator>>;

/// Joins the processes of a world of GPUs.
pub(super) struct NcclFabric {
    world_size: usize,
    parent: Parent,
    shared: Arc<Shared>,
    groups: Mutex<Vec<(String, Arc<Group>)>>,
    /// Families that were split already, the same on every rank.
    prepared: Mutex<BTreeSet<(String, Vec<Vec<usize>>)>>,
    mail: Arc<Mail>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl NcclFabric {
    /// Makes the fabric of all processes. All of them call this.
    pub(super) fn connect(
        parent: &Parent,
        gpu: &Arc<Gpu>,
        (rank, world_size): (usize, usize),
        timeouts: CommTimeouts,
    ) -> Result<Arc<Self>, CommError> {
        let shared = Shared::new(rank, Arc::clone(gpu), timeouts);
        let everyone: Vec<usize> = (0..world_size).collect();
        let split = |name: &str| {
            let place = Place { color: Some(0), index: rank, members: everyone.clone() };
            split(parent, &shared, name, &place)
        };
        let (world, up, down) = (split("world")?, split("mail up")?, split("mail down")?);
        let missing = || library("world", "making the world", "no communicator".to_owned());
        let [world, up, down] = [world, up, down].map(|line| line.ok_or_else(missing));
        let mail = Mail::new(Arc::clone(&shared), up?, down?);
        let world = Group::new(Arc::clone(&shared), world?, everyone, rank);
        let groups = Mutex::new(vec![("world".to_owned(), world)]);
        let (parent, prepared) = (Arc::clone(parent), Mutex::default());
        Ok(Arc::new(Self { world_size, parent, shared, groups, prepared, mail }))
    }

    /// Stops watching.
    pub(super) fn close(&self) {
        self.shared.close();
    }

    /// Waits until nothing is under way any more; returns false if that takes too long.
    pub(super) fn drain(&self, limit: Duration) -> bool {
        let (begun, mut pause) = (Instant::now(), Pause::default());
        let is_idle = || lock(&self.groups).iter().all(|(_, group)| group.line.is_idle());
        while !is_idle() {
            if begun.elapsed() >= limit {
                return false;
            }
            pause.take();
        }
        true
    }

    fn find(&self, name: &str, members: &[usize]) -> Option<Arc<Group>> {
        let groups = lock(&self.groups);
        let exact = groups.iter().find(|(known, group)| known == name && group.members == members);
        let found = exact.or_else(|| groups.iter().find(|(_, group)| group.members == members));
        found.map(|(_, group)| Arc::clone(group))
    }
}

/// This rank's place in a split.
struct Place {
    color: Option<usize>,
    index: usize,
    members: Vec<usize>,
}

/// Splits the world; nothing for a rank without a color.
fn split(
    parent: &Parent,
    shared: &Arc<Shared>,
    name: &str,
    place: &Place,
) -> Result<Option<Arc<Line>>, CommError> {
    let during = "making its communicator";
    let said = |message: String| library(name, during, message);
    let limit = shared.timeouts.connect;
    let mut parent = lock(parent);
    shared.gpu.enter().map_err(said)?;
    let child = parent.split(place.color, place.index, place.members.len()).map_err(said)?;
    until_ready(&parent, name, limit)?;
    if place.color.is_none() {
        return Ok(None);
    }
    let child = child.into_communicator().map_err(said)?;
    until_ready(&child, name, limit)?;
    let labels = place.members.iter().map(|rank| format!("rank {rank}")).collect();
    let line = Line::new(name, child, labels).map_err(said)?;
    Ok(Some(shared.add(line)))
}

/// Waits until a communicator may be called.
pub(super) fn until_ready(
    communicator: &Communicator,
    group: &str,
    limit: Duration,
) -> Result<(), CommError> {
    let (begun, mut pause) = (Instant::now(), Pause::default());
    let said = |message: String| library(group, "meeting the other processes", message);
    while !communicator.is_ready().map_err(said)? {
        if begun.elapsed() >= limit {
            return Err(CommError::Timeout {
                group: group.to_owned(),
                sequence: 0,
                call: "the meeting of all processes".to_owned(),
                waited: limit,
                missing: vec!["processes that did not come".to_owned()],
            });
        }
        pause.take();
    }
    Ok(())
}

fn library(group: &str, during: &str, message: String) -> CommError {
    let (group, during) = (group.to_owned(), during.to_owned());
    CommError::Library { group, library: "NCCL", during, message }
}

impl Fabric for NcclFabric {
    fn world_size(&self) -> usize {
        self.world_size
    }

    fn prepare(&self, families: &[GroupFamily]) -> Result<(), CommError> {
        let everyone: Vec<usize> = (0..self.world_size).collect();
        for family in families {
            let is_new = lock(&self.prepared).insert((family.name.clone(), family.groups.clone()));
            let is_world = family.groups.len() == 1 && family.groups[0] == everyone;
            if !is_new || is_world || family.groups.iter().all(|members| members.len() < 2) {
                continue;
            }
            let rank = self.shared.rank;
            let color = family.groups.iter().position(|members| members.contains(&rank));
            let problem = format!("rank {rank} is in none");
            let group = family.name.clone();
            let color = color.ok_or(CommError::Group { group, problem })?;
            let members = family.groups[color].clone();
            let index = members.iter().position(|member| *member == rank).unwrap_or(0);
            let has_others = members.len() > 1;
            let place =
                Place { color: has_others.then_some(color), index, members: members.clone() };
            let line = split(&self.parent, &self.shared, &family.name, &place)?;
            if let Some(line) = line {
                let group = Group::new(Arc::clone(&self.shared), line, members, index);
                lock(&self.groups).push((family.name.clone(), group));
            }
        }
        Ok(())
    }

    fn group(
        &self,
        rank: usize,
        name: &str,
        members: &[usize],
        labels: Arc<[String]>,
    ) -> Result<ProcessGroup, CommError> {
        let identity = GroupIdentity::new(self.world_size, rank, name, members, labels)?;
        let group = self.find(name, members);
        if group.is_none() && members.len() > 1 {
            return Err(CommError::unprepared(name));
        }
        if let Some(group) = &group {
            group.line.rename(Arc::clone(&identity.labels));
        }
        let end = Endpoint {
            group,
            mail: Arc::clone(&self.mail),
            // The same on every member.
            id: xxh3_64(format!("{name} {members:?}").as_bytes()),
            identity: identity.clone(),
        };
        Ok(ProcessGroup::new(Arc::new(end), identity))
    }

    fn fail(&self, rank: usize, reason: &str) {
        self.shared.fail(Failure::Peer { rank, reason: reason.to_owned() });
    }

    /// Tells nobody: NCCL has no way to, and whoever waits for this rank finds out by the time limit.
    fn leave(&self, _: usize) {}
}

impl Drop for NcclFabric {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for NcclFabric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NcclFabric")
            .field("rank", &self.shared.rank)
            .field("world_size", &self.world_size)
            .finish_non_exhaustive()
    }
}

/// Joins one member to its group.
struct Endpoint {
    /// Absent in a group of one, which asks for nothing but mail.
    group: Option<Arc<Group>>,
    mail: Arc<Mail>,
    id: u64,
    identity: GroupIdentity,
}

impl Endpoint {
    fn group(&self, call: &Call) -> Result<&Arc<Group>, CommError> {
        let alone = || library(&self.identity.name, &call.to_string(), "a group of one".to_owned());
        self.group.as_ref().ok_or_else(alone)
    }
}

impl Transport for Endpoint {
    fn issue(&self, call: Call, input: Option<TensorData>) -> Result<Box<dyn Pending>, CommError> {
        self.group(&call)?.issue(call, input)
    }

    fn send(&self, data: TensorData, to: usize, tag: u64) -> Result<(), CommError> {
        self.mail.send(data, self.identity.members[to], self.id, tag)
    }

    fn post_receive(
        &self,
        from: usize,
        tag: u64,
        site: &'static Location<'static>,
    ) -> Result<Box<dyn Pending>, CommError> {
        let labels = &self.identity.labels;
        let (me, them) = (&labels[self.identity.index], &labels[from]);
        let place = format!("{}:{}", site.file(), site.line());
        let text = format!("recv on {me} of tag {tag} from {them} at {place}");
        let (mail, from) = (Arc::clone(&self.mail), self.identity.members[from]);
        let ticket = mail.ask(from, self.id, tag);
        Ok(Box::new(PendingReceive { mail, from, group: self.id, tag, ticket, text }))
    }

    fn abort(&self, error: CommError) {
        if let Some(group) = &self.group {
            group.line.fail(Failure::Error(error));
        }
    }

    fn device(&self) -> Option<&dyn DeviceTransport> {
        Some(self)
    }
}

impl DeviceTransport for Endpoint {
    fn issue_tensor(
        &self,
        call: Call,
        input: Option<Erased>,
        device: &Device,
    ) -> Result<Box<dyn PendingTensor>, CommError> {
        self.group(&call)?.issue_tensor(call, input, device)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("group", &self.identity.name).finish_non_exhaustive()
    }
}

struct PendingReceive {
    mail: Arc<Mail>,
    from: usize,
    group: u64,
    tag: u64,
    ticket: u64,
    text: String,
}

impl Pending for PendingReceive {
    fn wait(self: Box<Self>) -> Result<Option<TensorData>, CommError> {
        self.mail.receive(self.from, self.group, self.tag, self.ticket, &self.text).map(Some)
    }
}

impl Drop for PendingReceive {
    fn drop(&mut self) {
        self.mail.withdraw(self.from, self.group, self.tag, self.ticket);
    }
}

impl fmt::Debug for PendingReceive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingReceive").field("text", &self.text).finish_non_exhaustive()
    }
}
