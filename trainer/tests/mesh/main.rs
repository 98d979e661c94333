//! The device mesh: coordinates, groups, degrees, layouts and nodes, as laws and as listed facts.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod coordinates;
mod degrees;
mod layouts;

use dream_trainer::mesh::{Axis, AxisSet, Degree, Degrees, DeviceMesh, MeshOrder};
use proptest::prelude::*;

const ORDERS: [MeshOrder; 2] = [MeshOrder::PpOutermost, MeshOrder::DpOutermost];

/// Builds a mesh from sizes in the order pp, `dp_replicate`, `dp_shard`, cp, tp.
fn mesh([pp, dp_replicate, dp_shard, cp, tp]: [usize; 5], order: MeshOrder) -> DeviceMesh {
    let world_size = pp * dp_replicate * dp_shard * cp * tp;
    degrees([pp, dp_replicate, dp_shard, cp, tp].map(Degree::Fixed))
        .resolve(world_size, order)
        .unwrap()
}

fn degrees([pp, dp_replicate, dp_shard, cp, tp]: [Degree; 5]) -> Degrees {
    Degrees { pp, dp_replicate, dp_shard, cp, tp }
}

fn any_mesh() -> impl Strategy<Value = DeviceMesh> {
    (prop::array::uniform5(1_usize..5), prop::sample::select(ORDERS.to_vec()))
        .prop_map(|(sizes, order)| mesh(sizes, order))
}

fn any_axes() -> impl Strategy<Value = AxisSet> {
    prop::sample::subsequence(Axis::ALL.to_vec(), 0..=5).prop_map(|axes| AxisSet::of(&axes))
}
