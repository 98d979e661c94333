//! The topology as text for people and for tools that read the lines of other launchers.

use std::io::{self, Write};

use super::Topology;
use crate::mesh::{Axis, AxisSet, Shape};

/// Writes the banner and one line per rank: `[ 5/23]: [cp:0/1][pp:1/1][tp:1/1][dp:0/2]`.
pub(super) fn ranks(topology: &Topology, out: &mut impl Write) -> io::Result<()> {
    let mesh = &topology.mesh;
    let last = mesh.world_size() - 1;
    let (axes, width) = (topology.line_axes(), last.to_string().len());
    banner(topology, out)?;
    for rank in 0..=last {
        write!(out, "[{rank:>width$}/{last}]:")?;
        for (i, axes) in axes.iter().enumerate() {
            let space = if i == 0 { " " } else { "" };
            let (index, last) = (mesh.axis_rank(rank, *axes), mesh.size(*axes) - 1);
            write!(out, "{space}[{axes}:{index}/{last}]")?;
        }
        writeln!(out)?;
    }
    Ok(())
}

/// Writes every group of every axis, one per line, with the nodes of those that cross.
pub(super) fn groups(topology: &Topology, out: &mut impl Write) -> io::Result<()> {
    let mesh = &topology.mesh;
    banner(topology, out)?;
    let views = topology.views();
    if views.is_empty() {
        writeln!(out, "no axis has more than one rank")?;
    }
    for view in views {
        write!(out, "{}: {} groups of {} ranks", label(&view), view.groups, view.size)?;
        match view.crossing {
            Some(crossing) => writeln!(out, ", {crossing} cross nodes")?,
            None => writeln!(out)?,
        }
        for first in mesh.first_ranks(view.axes) {
            write!(out, "  [{first}")?;
            for rank in mesh.members(first, view.axes).skip(1) {
                write!(out, ",{rank}")?;
            }
            write!(out, "]")?;
            if let Some(nodes) =
                topology.nodes.filter(|nodes| nodes.crosses(mesh, first, view.axes))
            {
                let nodes = nodes.touched(mesh, first, view.axes);
                let nodes: Vec<String> = nodes.iter().map(usize::to_string).collect();
                write!(out, " crosses nodes {}", nodes.join(","))?;
            }
            writeln!(out)?;
        }
    }
    Ok(())
}

/// Writes one line per axis: size, distance between neighbors, number of groups.
pub(super) fn summary(topology: &Topology, out: &mut impl Write) -> io::Result<()> {
    let mesh = &topology.mesh;
    banner(topology, out)?;
    write!(out, "world size {}, mesh order {}", mesh.world_size(), mesh.order())?;
    if let Some(nodes) = topology.nodes {
        let num_nodes = nodes.num_nodes(mesh.world_size());
        write!(out, ", {num_nodes} nodes of {} ranks", nodes.ranks_per_node())?;
    }
    write!(out, "\n{:<18}{:>10}{:>10}{:>10}", "axis", "size", "stride", "groups")?;
    writeln!(out, "{}", topology.nodes.map_or("", |_| "  crossing"))?;
    for view in topology.views() {
        let stride = view.stride.map_or("-".to_owned(), |stride| stride.to_string());
        write!(out, "{:<18}{:>10}{stride:>10}{:>10}", label(&view), view.size, view.groups)?;
        match view.crossing {
            Some(crossing) => writeln!(out, "{crossing:>10}")?,
            None => writeln!(out)?,
        }
    }
    Ok(())
}

/// Writes one line per shape.
pub(super) fn shapes(world_size: usize, shapes: &[Shape], out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{} shapes of world size {world_size}", shapes.len())?;
    writeln!(out, "{:>8}{:>8}{:>8}{:>8}", "tp", "cp", "pp", "dp")?;
    for Shape { tp, cp, pp, dp } in shapes {
        writeln!(out, "{tp:>8}{cp:>8}{pp:>8}{dp:>8}")?;
    }
    Ok(())
}

/// Writes the four sizes in the words launch logs use for them, then the warnings.
fn banner(topology: &Topology, out: &mut impl Write) -> io::Result<()> {
    let sizes: [(&str, AxisSet); 4] = [
        ("model parallel", Axis::Tp.into()),
        ("context parallel", Axis::Cp.into()),
        ("pipeline", Axis::Pp.into()),
        ("ddp", AxisSet::DP),
    ];
    for (what, axes) in sizes {
        writeln!(out, "> initializing {what} with size {}", topology.mesh.size(axes))?;
    }
    for warning in &topology.warnings {
        writeln!(out, "warning: {warning}")?;
    }
    Ok(())
}

fn label(view: &super::View) -> String {
    match view.aliases.as_slice() {
        [] => view.name.clone(),
        aliases => format!("{} ({})", view.name, aliases.join(", ")),
    }
}
