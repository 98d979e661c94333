//! The topology as one JSON document per mode.

use std::io::{self, Write};

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::{Topology, View};
use crate::mesh::{Axis, AxisSet, DeviceMesh, Nodes, Shape};

/// Writes the mesh and the coordinates of every rank.
pub(super) fn ranks(topology: &Topology, out: &mut impl Write) -> io::Result<()> {
    document(topology, "ranks", &RankList(&topology.mesh), out)
}

/// Writes the mesh and every group of every axis.
pub(super) fn groups(topology: &Topology, out: &mut impl Write) -> io::Result<()> {
    let views = topology.views();
    let views: Vec<_> = views.iter().map(|view| ViewGroups::new(view, topology)).collect();
    document(topology, "axes", &views, out)
}

/// Writes the mesh and the sizes and strides of every axis.
pub(super) fn summary(topology: &Topology, out: &mut impl Write) -> io::Result<()> {
    document(topology, "axes", &topology.views(), out)
}

/// Writes the shapes of a world size.
pub(super) fn shapes(world_size: usize, shapes: &[Shape], out: &mut impl Write) -> io::Result<()> {
    #[derive(Serialize)]
    struct Document<'a> {
        world_size: usize,
        shapes: &'a [Shape],
    }
    finish(&Document { world_size, shapes }, out)
}

fn document<T: Serialize>(
    topology: &Topology,
    key: &'static str,
    value: &T,
    out: &mut impl Write,
) -> io::Result<()> {
    finish(&Document { topology, key, value }, out)
}

fn finish<T: Serialize>(document: &T, out: &mut impl Write) -> io::Result<()> {
    serde_json::to_writer(&mut *out, document)?;
    writeln!(out)
}

/// What every mode says about the mesh, and then the part of that mode.
struct Document<'a, T> {
    topology: &'a Topology,
    key: &'static str,
    value: &'a T,
}

impl<T: Serialize> Serialize for Document<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Topology { mesh, nodes, warnings } = self.topology;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("world_size", &mesh.world_size())?;
        map.serialize_entry("mesh", mesh)?;
        map.serialize_entry("ranks_per_node", &nodes.map(|nodes| nodes.ranks_per_node()))?;
        map.serialize_entry("warnings", warnings)?;
        map.serialize_entry(self.key, self.value)?;
        map.end()
    }
}

/// All ranks, made one at a time while they are written.
struct RankList<'a>(&'a DeviceMesh);

impl Serialize for RankList<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq((0..self.0.world_size()).map(|rank| Rank { mesh: self.0, rank }))
    }
}

struct Rank<'a> {
    mesh: &'a DeviceMesh,
    rank: usize,
}

impl Serialize for Rank<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let axes = [Axis::Cp, Axis::Pp, Axis::Tp].map(AxisSet::from);
        let dp = [AxisSet::DP, Axis::DpReplicate.into(), Axis::DpShard.into()];
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("rank", &self.rank)?;
        for axes in axes.into_iter().chain(dp) {
            map.serialize_entry(axes.to_string().as_str(), &self.mesh.axis_rank(self.rank, axes))?;
        }
        map.end()
    }
}

/// A view with the members of its groups.
#[derive(Serialize)]
struct ViewGroups<'a> {
    #[serde(flatten)]
    view: &'a View,
    members: Members<'a>,
}

impl<'a> ViewGroups<'a> {
    fn new(view: &'a View, topology: &'a Topology) -> Self {
        Self { view, members: Members { axes: view.axes, topology } }
    }
}

/// All groups of a view, made one at a time while they are written.
struct Members<'a> {
    axes: AxisSet,
    topology: &'a Topology,
}

impl Serialize for Members<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Topology { mesh, nodes, .. } = self.topology;
        serializer.collect_seq(mesh.first_ranks(self.axes).map(|first| Group {
            ranks: mesh.group(first, self.axes),
            nodes: nodes.map(|nodes: Nodes| nodes.touched(mesh, first, self.axes)),
        }))
    }
}

#[derive(Serialize)]
struct Group {
    ranks: Vec<usize>,
    /// The nodes it touches, where the nodes are known; more than one means that it crosses.
    nodes: Option<Vec<usize>>,
}
