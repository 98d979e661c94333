//! Where ranks sit, which ranks form a group, and which groups cross nodes.

use std::collections::BTreeSet;

use dream_trainer::mesh::{
    Axis, AxisSet, DeviceMesh, MeshError, MeshOrder, Nodes, Shape, ShapeFilter, enumerate_shapes,
};
use proptest::prelude::*;

use crate::{ORDERS, any_axes, any_mesh, mesh};

proptest! {
    #[test]
    fn coordinates_and_ranks_are_a_bijection(mesh in any_mesh()) {
        let mut seen = BTreeSet::new();
        for rank in 0..mesh.world_size() {
            let coordinate = mesh.coordinate(rank);
            prop_assert_eq!(mesh.rank(&coordinate), rank);
            prop_assert!(Axis::ALL.iter().all(|axis| coordinate.get(*axis) < mesh.size(*axis)));
            seen.insert(coordinate);
        }
        prop_assert_eq!(seen.len(), mesh.world_size());
    }

    #[test]
    fn groups_partition_the_world_and_every_member_sees_the_same(
        mesh in any_mesh(),
        axes in any_axes(),
    ) {
        let groups = mesh.groups(axes);
        prop_assert_eq!(groups.len() * mesh.size(axes), mesh.world_size());
        prop_assert!(groups.is_sorted_by(|a, b| a[0] < b[0]));
        let mut members: Vec<usize> = groups.concat();
        members.sort_unstable();
        prop_assert_eq!(members, (0..mesh.world_size()).collect::<Vec<_>>());
        for group in &groups {
            prop_assert!(group.is_sorted());
            prop_assert_eq!(group[group.len() - 1] - group[0], mesh.span(axes));
            for (position, rank) in group.iter().enumerate() {
                prop_assert_eq!(&mesh.group(*rank, axes), group);
                prop_assert_eq!(mesh.axis_rank(*rank, axes), position);
            }
        }
    }

    #[test]
    fn members_of_a_group_differ_only_along_its_axes(mesh in any_mesh(), axes in any_axes()) {
        for group in mesh.groups(axes) {
            let first = mesh.coordinate(group[0]);
            for coordinate in group.iter().map(|rank| mesh.coordinate(*rank)) {
                for axis in axes.complement().iter() {
                    prop_assert_eq!(coordinate.get(axis), first.get(axis));
                }
            }
        }
    }

    #[test]
    fn a_uniform_stride_is_the_distance_between_all_neighbors(
        mesh in any_mesh(),
        axes in any_axes(),
    ) {
        let group = mesh.group(0, axes);
        let distances: BTreeSet<usize> = group.windows(2).map(|pair| pair[1] - pair[0]).collect();
        match mesh.uniform_stride(axes) {
            Some(stride) => prop_assert!(distances.iter().all(|distance| *distance == stride)),
            None => prop_assert!(distances.len() > 1),
        }
    }

    #[test]
    fn crossing_counts_agree_with_the_members(
        mesh in any_mesh(),
        axes in any_axes(),
        ranks_per_node in 1_usize..40,
    ) {
        let nodes = Nodes::new(ranks_per_node).unwrap();
        let touched = |rank: usize| nodes.touched(&mesh, rank, axes);
        let crossing = mesh.first_ranks(axes).filter(|first| touched(*first).len() > 1).count();
        prop_assert_eq!(nodes.num_crossing(&mesh, axes), crossing);
        for rank in 0..mesh.world_size() {
            prop_assert_eq!(nodes.crosses(&mesh, rank, axes), touched(rank).len() > 1);
        }
    }
}

#[test]
fn all_eighty_factorizations_of_24_are_bijections_in_both_orders() {
    let shapes = enumerate_shapes(24, &ShapeFilter::default());
    assert_eq!(shapes.len(), 80);
    for (shape, order) in shapes.iter().flat_map(|shape| ORDERS.map(|order| (shape, order))) {
        let mesh = mesh([shape.pp, 1, shape.dp, shape.cp, shape.tp], order);
        let ranks = (0..24).map(|rank| mesh.rank(&mesh.coordinate(rank)));
        assert!(ranks.eq(0..24), "{shape:?} {order}");
    }
}

#[test]
fn the_order_decides_whether_stages_or_replicas_are_far_apart() {
    // (order, rank, pp, dp)
    let rows = [
        (MeshOrder::DpOutermost, 4, 1, 0),
        (MeshOrder::DpOutermost, 8, 0, 1),
        (MeshOrder::DpOutermost, 12, 1, 1),
        (MeshOrder::PpOutermost, 4, 0, 1),
        (MeshOrder::PpOutermost, 12, 1, 0),
    ];
    for (order, rank, pp, dp) in rows {
        let coordinate = mesh([2, 1, 3, 2, 2], order).coordinate(rank);
        assert_eq!((coordinate.get(Axis::Pp), coordinate.get(Axis::DpShard)), (pp, dp), "{order}");
    }
    let [by_pp, by_dp] = ORDERS.map(|order| mesh([2, 1, 3, 2, 2], order));
    let same = (0..24).filter(|rank| by_pp.coordinate(*rank) == by_dp.coordinate(*rank));
    assert_eq!(same.collect::<Vec<_>>(), [0, 1, 2, 3, 20, 21, 22, 23]);
}

#[test]
fn strides_grow_from_tp_to_the_outermost_axis() {
    let mesh = mesh([2, 2, 3, 5, 7], MeshOrder::DpOutermost);
    let strides = mesh.order().axes().map(|axis| mesh.stride(axis));
    assert_eq!(strides, [210, 70, 35, 7, 1]);
    assert_eq!(mesh.uniform_stride(AxisSet::DP), Some(70));
    assert_eq!(mesh.uniform_stride(AxisSet::FSDP), None);
}

#[test]
fn derived_groups_join_their_axes() {
    let mesh = mesh([1, 2, 2, 2, 2], MeshOrder::default());
    assert_eq!(mesh.group(0, AxisSet::FSDP), [0, 2, 4, 6]);
    assert_eq!(mesh.group(9, AxisSet::FSDP), [9, 11, 13, 15]);
    assert_eq!(mesh.group(3, AxisSet::DP), [3, 7, 11, 15]);
    assert_eq!(mesh.group(1, AxisSet::LOSS), [1, 3, 5, 7, 9, 11, 13, 15]);
    assert_eq!(mesh.group(5, AxisSet::EMPTY), [5]);
    assert_eq!(mesh.groups(AxisSet::WORLD), [(0..16).collect::<Vec<_>>()]);
}

#[test]
fn names_are_short_and_readable() {
    let mesh = mesh([2, 1, 2, 1, 2], MeshOrder::default());
    assert_eq!(mesh.coordinate(6).to_string(), "pp1/dp_shard1/tp0");
    assert_eq!(mesh.coordinate(6).with(Axis::Tp, 1).to_string(), "pp1/dp_shard1/tp1");
    assert_eq!(DeviceMesh::single().coordinate(0).to_string(), "single");
    let sets = [AxisSet::FSDP, AxisSet::from(Axis::Cp), AxisSet::from([Axis::Tp, Axis::DpShard])];
    assert_eq!(sets.map(|set| set.to_string()), ["fsdp", "cp", "dp_shard+tp"]);
}

#[test]
fn groups_cross_two_nodes_of_twelve_where_they_must() {
    // (sizes, axes, crossing groups, groups)
    let (a, b, c) = ([2, 1, 3, 4, 1], [2, 1, 3, 2, 2], [1, 1, 6, 2, 2]);
    let (tp, cp, pp) = (Axis::Tp.into(), Axis::Cp.into(), Axis::Pp.into());
    let rows = [
        (a, cp, 0, 6),
        (a, pp, 4, 12),
        (a, AxisSet::DP, 8, 8),
        (b, tp, 0, 12),
        (b, cp, 0, 12),
        (b, pp, 4, 12),
        (b, AxisSet::DP, 8, 8),
        (c, tp, 0, 12),
        (c, cp, 0, 12),
        (c, AxisSet::DP, 4, 4),
    ];
    let nodes = Nodes::new(12).unwrap();
    for (sizes, axes, crossing, groups) in rows {
        let mesh = mesh(sizes, MeshOrder::DpOutermost);
        assert_eq!(nodes.num_crossing(&mesh, axes), crossing, "{axes} of {sizes:?}");
        assert_eq!(mesh.groups(axes).len(), groups);
    }
    let mesh = mesh(b, MeshOrder::DpOutermost);
    let crossing: Vec<_> =
        mesh.groups(pp).into_iter().filter(|group| nodes.crosses(&mesh, group[1], pp)).collect();
    assert_eq!(crossing, [[8, 12], [9, 13], [10, 14], [11, 15]]);
}

#[test]
fn tensor_parallelism_stays_inside_a_node() {
    let check = |tp, dp, ranks_per_node| {
        let mesh = mesh([1, 1, dp, 1, tp], MeshOrder::default());
        Nodes::new(ranks_per_node).unwrap().check_tensor_parallel(&mesh)
    };
    assert_eq!(check(8, 2, 8), Ok(0));
    assert_eq!(check(8, 3, 12), Ok(1));
    let refused = MeshError::TensorParallelAcrossNodes { tp: 16, ranks_per_node: 8 };
    assert_eq!(check(16, 1, 8), Err(refused));
    assert_eq!(Nodes::new(0), Err(MeshError::ZeroRanksPerNode));
}

#[test]
fn shapes_multiply_to_the_world_and_pass_the_filter() {
    // (world size, ordered factorizations in four): a square has a divisor that pairs with itself.
    for (world_size, expected) in [(1, 1), (7, 4), (24, 80), (36, 100)] {
        let all = enumerate_shapes(world_size, &ShapeFilter::default());
        let product = |shape: &Shape| shape.tp * shape.cp * shape.pp * shape.dp;
        assert!(all.iter().all(|shape| product(shape) == world_size));
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
        assert_eq!(all.len(), expected);
    }
    let count = |filter| enumerate_shapes(24, &filter).len();
    let default = ShapeFilter::default();
    assert_eq!(count(ShapeFilter { powers_of_two: true, ..default }), 20);
    assert_eq!(count(ShapeFilter { max_product: Some(2), ..default }), 4);
    assert_eq!(count(ShapeFilter { tp: Some(24), ..default }), 1);
    assert_eq!(count(ShapeFilter { tp: Some(5), ..default }), 0);
    assert_eq!(count(ShapeFilter { max_tp: Some(1), ..default }), 30);
    assert_eq!(enumerate_shapes(0, &default), []);
}
