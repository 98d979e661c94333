//! [`MeshComm`]: the groups of one rank along the axes of a mesh.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{CommError, Fabric, GroupFamily, OpCount, ProcessGroup};
use crate::mesh::{Axis, AxisSet, Coordinate, DeviceMesh, Neighbors};

/// Gives one rank the group of any set of mesh axes.
///
/// A group comes into being on first use and without communication: its members follow from the
/// mesh alone, and what a backend needs for it was made in [`Self::new`]. Messages call its members
/// by rank and coordinate. Clones share the groups.
#[derive(Debug, Clone)]
pub struct MeshComm {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    fabric: Arc<dyn Fabric>,
    mesh: DeviceMesh,
    rank: usize,
    groups: Mutex<BTreeMap<Which, ProcessGroup>>,
}

/// What the members of a group have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Which {
    Axes(AxisSet),
    Neighbors(Neighbors),
}

impl MeshComm {
    /// Places `rank` of a fabric on a mesh. All ranks do it at the same time.
    ///
    /// # Communication
    ///
    /// See [`Fabric::prepare`].
    ///
    /// # Errors
    ///
    /// [`CommError::Group`] if the mesh has another number of ranks than the fabric, or no such
    /// rank.
    pub fn new(fabric: Arc<dyn Fabric>, mesh: DeviceMesh, rank: usize) -> Result<Self, CommError> {
        let (ranks, world_size) = (mesh.world_size(), fabric.world_size());
        if ranks != world_size || rank >= ranks {
            let problem = format!("rank {rank} of {world_size} has no place on a mesh of {ranks}");
            return Err(CommError::Group { group: "world".to_owned(), problem });
        }
        fabric.prepare(&families(&mesh))?;
        let groups = Mutex::default();
        Ok(Self { inner: Arc::new(Inner { fabric, mesh, rank, groups }) })
    }

    /// Returns the mesh.
    pub fn mesh(&self) -> &DeviceMesh {
        &self.inner.mesh
    }

    /// Returns the global number of this rank.
    pub fn rank(&self) -> usize {
        self.inner.rank
    }

    /// Returns the place of this rank on the mesh.
    pub fn coordinate(&self) -> Coordinate {
        self.inner.mesh.coordinate(self.inner.rank)
    }

    /// Returns the group of the ranks that differ from this one along `axes` only, in mesh order.
    ///
    /// # Communication
    ///
    /// None.
    pub fn group(&self, axes: impl Into<AxisSet>) -> ProcessGroup {
        let axes = axes.into();
        let mut groups = self.inner.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || self.inner.make(&axes.to_string(), &self.inner.mesh.group(self.rank(), axes));
        groups.entry(Which::Axes(axes)).or_insert_with(make).clone()
    }

    /// Returns the group of the neighbors of this rank along an axis.
    ///
    /// # Communication
    ///
    /// The first call is one of all ranks at the same time, see [`Fabric::prepare`]; later ones
    /// are none.
    ///
    /// # Errors
    ///
    /// Ranks that did not come in time.
    ///
    /// # Panics
    ///
    /// If the count does not divide the axis.
    pub fn neighbors(&self, neighbors: Neighbors) -> Result<ProcessGroup, CommError> {
        let Inner { fabric, mesh, rank, groups } = &*self.inner;
        if neighbors.count == mesh.size(neighbors.axis) {
            return Ok(self.group(neighbors.axis));
        }
        let which = Which::Neighbors(neighbors);
        if let Some(group) = groups.lock().unwrap_or_else(PoisonError::into_inner).get(&which) {
            return Ok(group.clone());
        }
        let name = neighbors.to_string();
        let groups_of_all = mesh.all_neighbors(neighbors);
        fabric.prepare(&[GroupFamily { name: name.clone(), groups: groups_of_all }])?;
        let group = self.inner.make(&name, &mesh.neighbors(*rank, neighbors));
        groups.lock().unwrap_or_else(PoisonError::into_inner).insert(which, group.clone());
        Ok(group)
    }

    /// Returns what this rank communicated so far, by group and operation.
    pub fn counters(&self) -> BTreeMap<String, BTreeMap<&'static str, OpCount>> {
        let groups = self.inner.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let used =
            groups.values().map(|group| (group.name().to_owned(), group.counters().snapshot()));
        used.filter(|(_, operations)| !operations.is_empty()).collect()
    }

    /// Returns how long this rank waited for the results of all its groups.
    pub fn waited(&self) -> Duration {
        let groups = self.inner.groups.lock().unwrap_or_else(PoisonError::into_inner);
        groups.values().map(|group| group.counters().waited()).sum()
    }
}

/// Lists the families of groups a run may ask for, in the same order on every rank: the views, and
/// every set of axes with more than one rank. A set that also names axes of one rank has the members
/// of one of these.
fn families(mesh: &DeviceMesh) -> Vec<GroupFamily> {
    let views = [AxisSet::DP, AxisSet::FSDP, AxisSet::LOSS, AxisSet::WORLD];
    let mut sets: Vec<AxisSet> = vec![AxisSet::EMPTY];
    for axis in Axis::ALL.into_iter().filter(|axis| mesh.size(*axis) > 1) {
        let with: Vec<AxisSet> = sets.iter().map(|set| *set | axis).collect();
        sets.extend(with);
    }
    sets.extend(views);
    sets.sort();
    sets.dedup();
    sets.retain(|set| mesh.size(*set) > 1);
    let family = |set: AxisSet| GroupFamily { name: set.to_string(), groups: mesh.groups(set) };
    sets.into_iter().map(family).collect()
}

impl Inner {
    fn make(&self, name: &str, members: &[usize]) -> ProcessGroup {
        let label = |rank: &usize| format!("rank {rank} ({})", self.mesh.coordinate(*rank));
        let labels = members.iter().map(label).collect();
        let group = self.fabric.group(self.rank, name, members, labels);
        group.expect("a mesh of the fabric's size only names its ranks, each once")
    }
}
