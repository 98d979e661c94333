//! `dream-train topo`: prints the mesh of any cluster without starting a rank.
//!
//! Every mode streams: one line or one JSON element at a time, so a million ranks need no memory.

mod json;
mod text;

use std::io::{self, BufWriter, Write};

use crate::mesh::{
    Axis, AxisSet, Degree, Degrees, DeviceMesh, MeshError, MeshOrder, Nodes, ShapeFilter,
    enumerate_shapes,
};

/// Which mesh to show, and how.
#[derive(Debug, Clone, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct TopoArgs {
    /// Number of ranks
    #[arg(long, value_name = "N")]
    pub world_size: usize,
    /// Tensor parallelism: a number or `auto` [default: 1]
    #[arg(long, value_name = "DEGREE")]
    pub tp: Option<Degree>,
    /// Context parallelism: a number or `auto` [default: 1]
    #[arg(long, value_name = "DEGREE")]
    pub cp: Option<Degree>,
    /// Pipeline parallelism: a number or `auto` [default: 1]
    #[arg(long, value_name = "DEGREE")]
    pub pp: Option<Degree>,
    /// Whole copies of the model: a number or `auto` [default: 1]
    #[arg(long, value_name = "DEGREE", conflicts_with = "enumerate")]
    pub dp_replicate: Option<Degree>,
    /// Shards of each copy: a number or `auto` [default: what the other degrees leave]
    #[arg(long, value_name = "DEGREE", conflicts_with = "enumerate")]
    pub dp_shard: Option<Degree>,
    /// Axes from outer to inner: `pp,dp,cp,tp` or `dp,pp,cp,tp`
    #[arg(long, value_name = "AXES", default_value_t)]
    pub mesh_order: MeshOrder,
    /// Print the members of every group of every axis
    #[arg(long, group = "mode")]
    pub groups: bool,
    /// Ranks of one node: reports the groups that cross nodes
    #[arg(long, value_name = "N")]
    pub ranks_per_node: Option<usize>,
    /// Accept tensor parallelism wider than a node
    #[arg(long, requires = "ranks_per_node")]
    pub allow_tp_across_nodes: bool,
    /// List the shapes this world size allows; given degrees stay fixed
    #[arg(long, group = "mode")]
    pub enumerate: bool,
    /// With --enumerate: only shapes whose product of tp, cp and pp is at most N
    #[arg(long, value_name = "N", requires = "enumerate")]
    pub max_product: Option<usize>,
    /// With --enumerate: only powers of two for tp, cp and pp
    #[arg(long, requires = "enumerate")]
    pub powers_of_two: bool,
    /// Print sizes, strides and numbers of groups, but no ranks
    #[arg(long, group = "mode")]
    pub summary: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// A topology that cannot be shown.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TopoError {
    /// The arguments describe no mesh.
    #[error(transparent)]
    Mesh(#[from] MeshError),
    /// The output failed for a reason other than a reader that has seen enough.
    #[error("cannot write the topology")]
    Write(#[source] io::Error),
}

impl TopoError {
    /// Returns what to try instead, where there is something to try.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Mesh(error) => error.hint(),
            Self::Write(_) => None,
        }
    }
}

/// Writes the topology that `args` describe.
///
/// A reader that closes the pipe early, as `head` does, ends the output without an error.
///
/// # Errors
/// Returns an error if the arguments describe no mesh or the output cannot be written.
pub fn run(args: &TopoArgs, out: &mut impl Write) -> Result<(), TopoError> {
    let mut out = BufWriter::new(out);
    let written = if args.enumerate {
        write_shapes(args, &mut out)?
    } else {
        write_mesh(args, &Topology::resolve(args)?, &mut out)
    };
    match written.and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(TopoError::Write(error)),
        _ => {
            // What is still buffered has no reader; dropping the writer would try it again.
            let _ = out.into_parts();
            Ok(())
        }
    }
}

fn write_mesh(args: &TopoArgs, topology: &Topology, out: &mut impl Write) -> io::Result<()> {
    match (args.json, args.groups, args.summary) {
        (false, true, _) => text::groups(topology, out),
        (false, _, true) => text::summary(topology, out),
        (false, ..) => text::ranks(topology, out),
        (true, true, _) => json::groups(topology, out),
        (true, _, true) => json::summary(topology, out),
        (true, ..) => json::ranks(topology, out),
    }
}

fn write_shapes(args: &TopoArgs, out: &mut impl Write) -> Result<io::Result<()>, MeshError> {
    if args.world_size == 0 {
        return Err(MeshError::ZeroWorld);
    }
    let fixed = |degree| match degree {
        Some(Degree::Fixed(degree)) => Some(degree),
        _ => None,
    };
    let nodes = args.ranks_per_node.map(Nodes::new).transpose()?;
    let filter = ShapeFilter {
        tp: fixed(args.tp),
        cp: fixed(args.cp),
        pp: fixed(args.pp),
        max_tp: nodes.filter(|_| !args.allow_tp_across_nodes).map(|nodes| nodes.ranks_per_node()),
        max_product: args.max_product,
        powers_of_two: args.powers_of_two,
    };
    let shapes = enumerate_shapes(args.world_size, &filter);
    Ok(if args.json {
        json::shapes(args.world_size, &shapes, out)
    } else {
        text::shapes(args.world_size, &shapes, out)
    })
}

/// A resolved mesh on its nodes.
struct Topology {
    mesh: DeviceMesh,
    nodes: Option<Nodes>,
    warnings: Vec<String>,
}

impl Topology {
    fn resolve(args: &TopoArgs) -> Result<Self, MeshError> {
        let mesh = degrees(args).resolve(args.world_size, args.mesh_order)?;
        let nodes = args.ranks_per_node.map(Nodes::new).transpose()?;
        let mut warnings = Vec::new();
        if let Some(nodes) = nodes {
            let crossing = match nodes.check_tensor_parallel(&mesh) {
                Err(_) if args.allow_tp_across_nodes => nodes.num_crossing(&mesh, Axis::Tp),
                checked => checked?,
            };
            let (tp, ranks_per_node) = (mesh.size(Axis::Tp), nodes.ranks_per_node());
            if crossing > 0 {
                let groups = mesh.world_size() / tp;
                warnings.push(format!(
                    "{crossing} of {groups} tp groups cross nodes: \
                     tp {tp} does not divide {ranks_per_node} ranks per node"
                ));
            }
        }
        Ok(Self { mesh, nodes, warnings })
    }

    /// Lists every set of axes whose groups differ, innermost first.
    fn views(&self) -> Vec<View> {
        let enabled = self.mesh.enabled();
        let splits_dp = enabled.intersection(AxisSet::DP) == AxisSet::DP;
        let parts = if splits_dp { vec![Axis::DpShard, Axis::DpReplicate] } else { vec![] };
        let single = [Axis::Tp, Axis::Cp, Axis::Pp].into_iter().chain(parts).map(AxisSet::from);
        let derived = [AxisSet::DP, AxisSet::FSDP, AxisSet::LOSS];
        let mut views: Vec<View> = Vec::new();
        for named in single.chain(derived) {
            let (name, axes) = (named.to_string(), named.intersection(enabled));
            match views.iter_mut().find(|view| view.axes == axes) {
                Some(view) => view.aliases.push(name),
                None if axes.is_empty() => {}
                None => views.push(View::new(name, axes, self)),
            }
        }
        views
    }

    /// Lists the axes of a rank line in its order, data parallelism as one where it is one.
    fn line_axes(&self) -> Vec<AxisSet> {
        let enabled = self.mesh.enabled();
        let dp: Vec<AxisSet> = if enabled.intersection(AxisSet::DP) == AxisSet::DP {
            vec![Axis::DpReplicate.into(), Axis::DpShard.into()]
        } else {
            vec![AxisSet::DP]
        };
        let axes = [Axis::Cp, Axis::Pp, Axis::Tp].into_iter().map(AxisSet::from).chain(dp);
        axes.filter(|axes| !axes.intersection(enabled).is_empty()).collect()
    }
}

/// A set of axes whose ranks form groups, under every name it goes by.
#[derive(serde::Serialize)]
struct View {
    name: String,
    aliases: Vec<String>,
    size: usize,
    stride: Option<usize>,
    groups: usize,
    crossing: Option<usize>,
    #[serde(skip)]
    axes: AxisSet,
}

impl View {
    fn new(name: String, axes: AxisSet, topology: &Topology) -> Self {
        let mesh = &topology.mesh;
        Self {
            name,
            aliases: Vec::new(),
            size: mesh.size(axes),
            stride: mesh.uniform_stride(axes),
            groups: mesh.size(axes.complement()),
            crossing: topology.nodes.map(|nodes| nodes.num_crossing(mesh, axes)),
            axes,
        }
    }
}

fn degrees(args: &TopoArgs) -> Degrees {
    let given = [args.tp, args.cp, args.pp, args.dp_replicate, args.dp_shard];
    // Data parallelism takes what is left, unless another axis was told to.
    let rest = if given.contains(&Some(Degree::Auto)) { Degree::Fixed(1) } else { Degree::Auto };
    let (dp_replicate, dp_shard) = match (args.dp_replicate, args.dp_shard) {
        (Some(replicate), Some(shard)) => (replicate, shard),
        (None, Some(shard)) => (rest, shard),
        (replicate, None) => (replicate.unwrap_or_default(), rest),
    };
    Degrees {
        pp: args.pp.unwrap_or_default(),
        dp_replicate,
        dp_shard,
        cp: args.cp.unwrap_or_default(),
        tp: args.tp.unwrap_or_default(),
    }
}
