//! Which block of a tensor a rank holds.

use std::collections::{BTreeMap, BTreeSet};

use dream_trainer::mesh::{
    Axis, AxisSet, Block, MeshOrder, Neighbors, Placement, ReduceKind, exact_div, local_block,
    local_shape, shard_of, shard_range,
};
use dream_trainer::nn::ParamLayout;
use proptest::prelude::*;

use crate::{any_axes, any_mesh, mesh};

proptest! {
    #[test]
    fn shards_partition_a_dimension(len in 0_usize..50, parts in 1_usize..12) {
        let shards: Vec<usize> =
            (0..parts).flat_map(|index| shard_range(len, parts, index)).collect();
        prop_assert_eq!(shards, (0..len).collect::<Vec<_>>());
        let chunk = len.div_ceil(parts);
        for index in 0..parts {
            let range = shard_range(len, parts, index);
            prop_assert!(range.len() <= chunk);
            for (offset, position) in range.enumerate() {
                prop_assert_eq!(shard_of(len, parts, position), (index, offset));
            }
        }
    }

    #[test]
    fn unsharding_the_local_blocks_is_the_identity(
        mesh in any_mesh(),
        shape in prop::array::uniform3(0_usize..7),
        dims in prop::array::uniform3(0_usize..3),
    ) {
        let axes = [AxisSet::from(Axis::Tp), AxisSet::from(Axis::DpShard)];
        let placements: Vec<_> =
            axes.iter().zip(dims).map(|(axes, dim)| (*axes, Placement::Shard(dim))).collect();
        let mut owners = vec![0_usize; shape.iter().product()];
        for rank in 0..mesh.world_size() {
            let block = local_block(&mesh, rank, &shape, &placements).unwrap();
            for i in block.range(0) {
                for j in block.range(1) {
                    for k in block.range(2) {
                        owners[(i * shape[1] + j) * shape[2] + k] += 1;
                    }
                }
            }
        }
        let copies = mesh.world_size() / mesh.size(axes[0] | axes[1]);
        prop_assert!(owners.iter().all(|count| *count == copies));
    }

    #[test]
    fn blocks_intersect_where_they_share_elements(
        a in prop::array::uniform4(0_usize..6),
        b in prop::array::uniform4(0_usize..6),
    ) {
        let block = |[i, j, rows, columns]: [usize; 4]| Block {
            offset: vec![i, j],
            shape: vec![rows, columns],
        };
        let elements = |block: &Block| -> BTreeSet<(usize, usize)> {
            block.range(0).flat_map(|i| block.range(1).map(move |j| (i, j))).collect()
        };
        let (a, b) = (block(a), block(b));
        let shared: BTreeSet<_> = elements(&a).intersection(&elements(&b)).copied().collect();
        match a.intersection(&b) {
            Some(both) => prop_assert_eq!(elements(&both), shared),
            None => prop_assert!(shared.is_empty()),
        }
    }

    #[test]
    fn placements_and_axis_sets_survive_text(dim in 0_usize..9, axes in any_axes()) {
        let partial = [ReduceKind::Sum, ReduceKind::Avg, ReduceKind::Max, ReduceKind::Min];
        let placements = partial.map(Placement::Partial).into_iter();
        for placement in placements.chain([Placement::Shard(dim), Placement::Replicate]) {
            prop_assert_eq!(placement.to_string().parse(), Ok(placement));
        }
        prop_assert_eq!(axes.to_string().parse(), Ok(axes));
    }
}

#[test]
fn uneven_shards_follow_the_ceiling_rule() {
    let lengths = |len, parts| -> Vec<usize> {
        (0..parts).map(|index| shard_range(len, parts, index).len()).collect()
    };
    assert_eq!(lengths(12, 4), [3, 3, 3, 3]);
    assert_eq!(lengths(10, 4), [3, 3, 3, 1]);
    assert_eq!(lengths(5, 4), [2, 2, 1, 0]);
    assert_eq!(lengths(9, 8), [2, 2, 2, 2, 1, 0, 0, 0]);
    assert_eq!(lengths(0, 2), [0, 0]);
}

#[test]
fn copies_of_a_block_lie_on_neighbors() {
    // Two blocks of columns on four ranks, whose rows dp_shard = 3 splits again.
    let mesh = mesh([1, 1, 3, 1, 4], MeshOrder::default());
    let copies = Neighbors { axis: Axis::Tp, count: 2 };
    let mut owners = BTreeMap::<(usize, usize), Vec<usize>>::new();
    for rank in 0..12 {
        let (tp, dp) = (mesh.axis_rank(rank, Axis::Tp), mesh.axis_rank(rank, AxisSet::FSDP));
        let layout = ParamLayout::whole(&[5, 6]).shard(Axis::Tp, 1, 2, tp / 2).with_copies(copies);
        let layout = layout.shard(AxisSet::FSDP, 0, 3, dp);
        assert_eq!(layout.block_of(&mesh, rank, &[5, 6]), layout.block);
        assert_eq!(layout.is_first_copy(&mesh, rank), tp.is_multiple_of(2));
        for (i, j) in layout.block.range(0).flat_map(|i| layout.block.range(1).map(move |j| (i, j)))
        {
            owners.entry((i, j)).or_default().push(rank);
        }
    }
    assert_eq!(owners.len(), 30);
    for ranks in owners.into_values() {
        assert_eq!(ranks, mesh.neighbors(ranks[1], copies));
    }
}

#[test]
fn later_placements_split_within_earlier_ones() {
    // tp = 2 takes halves of the rows, dp_shard = 3 splits each half of 5 into 2, 2, 1.
    let mesh = mesh([1, 1, 3, 1, 2], MeshOrder::default());
    let placements = [
        (Axis::Tp.into(), Placement::Shard(0)),
        (AxisSet::FSDP, Placement::Shard(0)),
        (Axis::Pp.into(), Placement::Replicate),
    ];
    let blocks: Vec<_> = (0..6)
        .map(|rank| local_block(&mesh, rank, &[10, 4], &placements).unwrap())
        .map(|block| (block.offset[0], block.shape[0]))
        .collect();
    assert_eq!(blocks, [(0, 2), (5, 2), (2, 2), (7, 2), (4, 1), (9, 1)]);
    assert_eq!(local_shape(&mesh, 5, &[10, 4], &placements), Ok(vec![1, 4]));
    let partial = [(AxisSet::FSDP, Placement::Partial(ReduceKind::Sum))];
    assert_eq!(local_shape(&mesh, 5, &[10, 4], &partial), Ok(vec![10, 4]));
}

#[test]
fn impossible_layouts_are_refused() {
    let mesh = mesh([1, 1, 2, 2, 1], MeshOrder::default());
    let rows: [(Vec<(AxisSet, Placement)>, &str); 2] = [
        (
            vec![(AxisSet::FSDP, Placement::Shard(2))],
            "placement `S(2)` over `fsdp` names no dimension of shape [8, 4]",
        ),
        (
            vec![(AxisSet::FSDP, Placement::Shard(0)), (Axis::Cp.into(), Placement::Replicate)],
            "`cp` is already placed: an axis carries one placement of a tensor",
        ),
    ];
    for (placements, message) in rows {
        let error = local_block(&mesh, 0, &[8, 4], &placements).unwrap_err();
        assert_eq!(error.to_string(), message);
    }
    for text in ["S()", "S(-1)", "s(0)", "P(prod)", "R(0)", "", "S(0"] {
        assert!(text.parse::<Placement>().is_err(), "{text}");
    }
}

#[test]
fn exact_division_names_both_numbers() {
    assert_eq!(exact_div(12, 4), Ok(3));
    let message = |n, by| exact_div(n, by).unwrap_err().to_string();
    assert_eq!(message(10, 4), "10 is not divisible by 4: 10 % 4 = 2");
    assert_eq!(message(10, 0), "10 cannot be split into 0 parts");
}
