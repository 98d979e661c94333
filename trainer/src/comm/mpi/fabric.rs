//! [`MpiFabric`]: the communicators of a rank's groups, and the thread that keeps them moving.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use burn::tensor::DType;

use super::super::local::rendezvous::Failure;
use super::super::{
    CommError, CommTimeouts, Fabric, GroupFamily, GroupIdentity, ProcessGroup, Reduction,
};
use super::control::{Control, Notice};
use super::endpoint::Endpoint;
use super::exchange::Member;
use super::group::Group;
use super::library::{Communicator, Library, Request};
use super::operation::Operation;
use super::state::{Pause, Shared, Slot, State, with_library};

/// How long the rank that failed waits for the last words of the others before it reports.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// How long the others wait for that report, which ends every process.
const REPORT: Duration = Duration::from_secs(10);

/// Joins the processes of an MPI world.
pub(super) struct MpiFabric {
    rank: usize,
    world_size: usize,
    reduction: Reduction,
    /// Where ranks meet to make groups.
    meeting: Communicator,
    slot: Slot,
    shared: Arc<Shared>,
    behind: Mutex<Option<JoinHandle<()>>>,
}

impl MpiFabric {
    /// Makes the fabric of all processes. All of them call this.
    pub(super) fn connect(
        slot: &Slot,
        (rank, world_size): (usize, usize),
        timeouts: CommTimeouts,
        reduction: Reduction,
    ) -> Result<Arc<Self>, CommError> {
        meet(slot, |_| Communicator::world(), timeouts.connect)?;
        let (meeting, state) = with_library(slot, |library| {
            let world = Communicator::world();
            let meeting = world.duplicate(library);
            let control = Control::new(world.duplicate(library));
            let everyone = (0..world_size).collect();
            let (calls, data) = (world.duplicate(library), world.duplicate(library));
            let member = Member { index: rank, of: world_size, reduction };
            let world_group = Group::new("world".to_owned(), everyone, member, calls, data);
            let (calls, data) = (world.split(library, rank), world.split(library, rank));
            let member = Member { index: 0, of: 1, reduction };
            let alone = Group::new("none".to_owned(), vec![rank], member, calls, data);
            let groups = vec![world_group, alone];
            let state = State {
                rank,
                control,
                groups,
                failure: None,
                cause: None,
                is_own: false,
                has_ended: false,
            };
            (meeting, state)
        })?;
        let shared = Shared::new(Arc::clone(slot), timeouts, state);
        let behind = Arc::clone(&shared);
        let behind = thread::Builder::new()
            .name("mpi".to_owned())
            .spawn(move || behind.run_behind())
            .expect("the system can start a thread");
        Ok(Arc::new(Self {
            rank,
            world_size,
            reduction,
            meeting,
            slot: Arc::clone(slot),
            shared,
            behind: Mutex::new(Some(behind)),
        }))
    }

    /// Stops the thread behind the rank's.
    pub(super) fn close(&self) {
        self.shared.close();
        let behind = self.behind.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(behind) = behind {
            // It catches nothing and has nothing to say.
            let _ = behind.join();
        }
    }

    fn make(&self, library: &mut Library, family: &GroupFamily) -> Result<Group, CommError> {
        let problem = |problem: String| CommError::Group { group: family.name.clone(), problem };
        let mine = |members: &Vec<usize>| members.contains(&self.rank);
        let color = family.groups.iter().position(mine);
        let color = color.ok_or_else(|| problem(format!("rank {} is in none", self.rank)))?;
        let members = family.groups[color].clone();
        if !members.is_sorted() {
            return Err(problem(format!("its members {members:?} are not in ascending order")));
        }
        let calls = self.meeting.split(library, color);
        let data = calls.duplicate(library);
        let index = members.iter().position(|member| *member == self.rank);
        let member =
            Member { index: index.unwrap_or(0), of: members.len(), reduction: self.reduction };
        Ok(Group::new(family.name.clone(), members, member, calls, data))
    }
}

impl Fabric for MpiFabric {
    fn world_size(&self) -> usize {
        self.world_size
    }

    fn prepare(&self, families: &[GroupFamily]) -> Result<(), CommError> {
        let timeout = self.shared.timeouts.connect;
        for family in families {
            let is_there = self.shared.with(|state, _| {
                state.groups.iter().any(|group| {
                    group.name == family.name && family.groups.contains(&group.members)
                })
            })?;
            // The same on every rank, because the families are.
            if is_there {
                continue;
            }
            meet(&self.slot, |_| &self.meeting, timeout)?;
            self.shared.with(|state, library| {
                state.groups.push(self.make(library, family)?);
                Ok::<_, CommError>(())
            })??;
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
        let group = self.shared.with(|state, _| {
            let groups = || state.groups.iter().enumerate();
            let exact = groups().find(|(_, group)| group.name == name && group.members == members);
            let found = exact.or_else(|| groups().find(|(_, group)| group.members == members));
            let index = found.map(|(index, _)| index)?;
            state.groups[index].labels = Arc::clone(&identity.labels);
            Some(index)
        })?;
        let group = group.ok_or_else(|| CommError::unprepared(name))?;
        Ok(ProcessGroup::new(
            Arc::new(Endpoint { shared: Arc::clone(&self.shared), group }),
            identity,
        ))
    }

    fn fail(&self, rank: usize, reason: &str) {
        let told = self.shared.with(|state, library| {
            let reason = reason.to_owned();
            if let Some(cause) = state.cause {
                state.control.send(library, cause, &Notice::Ended { reason });
                return;
            }
            for to in (0..self.world_size).filter(|to| *to != rank) {
                let reason = reason.clone();
                state.control.send(library, to, &Notice::Failed { reason });
            }
            state.is_own = true;
            state.failure.get_or_insert(Failure::Peer { rank, reason });
        });
        if let Err(error) = told {
            tracing::debug!(%error, "the others could not be told of a failure");
        }
    }

    fn leave(&self, _: usize) {
        // Once the library has ended there is nobody to tell.
        let _ = self.shared.with(|state, _| state.has_ended = true);
    }

    /// Returns what the others said, if this rank is the one to report: the lowest of those that
    /// failed by themselves. The others wait for its report to end them.
    fn last_words(&self) -> Vec<(usize, String)> {
        let others = self.world_size - 1;
        let heard = self.shared.wait_for(LAST_WORDS, |state, _| {
            let is_reporter =
                state.is_own && state.control.claims.iter().all(|claim| *claim > self.rank);
            if !is_reporter {
                return Some(false);
            }
            (state.control.last_words.len() >= others).then_some(true)
        });
        if let Ok(Some(false)) = heard {
            thread::sleep(REPORT);
            return Vec::new();
        }
        let words = self.shared.with(|state, _| state.control.last_words.clone());
        words.map_or_else(|_| Vec::new(), |words| words.into_iter().collect())
    }
}

impl Drop for MpiFabric {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for MpiFabric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MpiFabric")
            .field("rank", &self.rank)
            .field("world_size", &self.world_size)
            .finish_non_exhaustive()
    }
}

/// Waits until every process has come, so that a call that blocks inside MPI finds them all there.
pub(super) fn meet<C: std::borrow::Borrow<Communicator>>(
    slot: &Slot,
    on: impl FnOnce(&mut Library) -> C,
    limit: Duration,
) -> Result<(), CommError> {
    let failed = |message: String| CommError::Library {
        group: "world".to_owned(),
        library: "MPI",
        during: "meeting all processes".to_owned(),
        message,
    };
    let mut request = with_library(slot, |library| {
        let on = on(library);
        let operation = Operation::Barrier;
        Request::start(library, on.borrow(), &operation, None, None, DType::U8)
    })?
    .map_err(failed)?;
    let start = Instant::now();
    let mut pause = Pause::default();
    while !with_library(slot, |library| request.test(library))?.map_err(failed)? {
        if start.elapsed() >= limit {
            return Err(CommError::Timeout {
                group: "world".to_owned(),
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
