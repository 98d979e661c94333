//! Groups along the axes of a mesh.

use dream_trainer::comm::{
    CommError, CommTimeouts, Fabric, MeshComm, RankContext, ReduceOp, ThreadFabric, launch_threads,
};
use dream_trainer::mesh::{Axis, AxisSet, Degree, Degrees, DeviceMesh, MeshOrder};

use crate::harness::{PATIENT, SHORT, tensor, values};

/// 24 ranks in the order dp, pp, cp, tp with sizes 3, 2, 2, 2.
fn mesh_b() -> DeviceMesh {
    let degrees = Degrees {
        pp: 2.into(),
        cp: 2.into(),
        tp: 2.into(),
        dp_shard: Degree::Auto,
        ..Degrees::default()
    };
    degrees.resolve(24, MeshOrder::DpOutermost).expect("2 x 2 x 2 divides 24")
}

#[test]
fn rank_sums_along_every_axis_of_mesh_b() {
    let axes: [(AxisSet, &str); 4] = [
        (Axis::Tp.into(), "tp"),
        (Axis::Cp.into(), "cp"),
        (Axis::Pp.into(), "pp"),
        (AxisSet::DP, "dp"),
    ];
    let run = |ctx: RankContext| {
        let comm = MeshComm::new(ctx.fabric.clone(), mesh_b(), ctx.rank())?;
        let mut sums = Vec::new();
        for (axes, name) in axes {
            let group = comm.group(axes);
            assert_eq!(group.name(), name);
            assert_eq!(group.members()[group.rank()], ctx.rank());
            group.barrier()?;
            let sum = group.all_reduce(tensor([ctx.rank() as i32]), ReduceOp::Sum)?;
            let expected: usize = group.members().iter().sum();
            assert_eq!(values::<i32>(&sum), [expected as i32], "{name} of rank {}", ctx.rank());
            sums.push(values::<i32>(&sum)[0]);
        }
        Ok::<_, CommError>(sums)
    };
    let sums = launch_threads(24, CommTimeouts::uniform(PATIENT), run).expect("all ranks agree");
    assert_eq!(sums[0], [1, 2, 4, 24]);
    assert_eq!(sums[7][3], 45);
}

#[test]
fn a_late_member_is_named_with_its_coordinate() {
    let run = |ctx: RankContext| {
        let comm = MeshComm::new(ctx.fabric.clone(), mesh_b(), ctx.rank())?;
        if ctx.rank() > 0 {
            // Stays until rank 0 has given up.
            return ctx.world_group().recv(0, 1).map(|_| String::new());
        }
        let error = comm.group(AxisSet::DP).barrier().expect_err("rank 8 does not come");
        for to in 1..24 {
            ctx.world_group().send(tensor([0_u8]), to, 1)?;
        }
        Ok(error.to_string())
    };
    let timeouts = CommTimeouts { collective: SHORT, ..CommTimeouts::uniform(PATIENT) };
    let errors = launch_threads(24, timeouts, run).expect("errors are results here");
    let error = &errors[0];
    assert!(error.starts_with("call 0 of group `dp`, barrier at "), "{error}");
    assert!(error.contains("rank 8 (pp0/dp_shard1/cp0/tp0)"), "{error}");
    assert!(error.contains("rank 16 (pp0/dp_shard2/cp0/tp0)"), "{error}");
}

#[test]
fn counters_tell_calls_and_bytes_by_group() {
    let degrees = Degrees { tp: 2.into(), dp_replicate: 2.into(), ..Degrees::default() };
    let mesh = degrees.resolve(4, MeshOrder::default()).expect("2 x 2 = 4");
    let run = |ctx: RankContext| {
        let comm = MeshComm::new(ctx.fabric.clone(), mesh, ctx.rank())?;
        let group = comm.group(Axis::Tp);
        group.all_gather(tensor([0.0_f32; 6]), 0)?;
        group.all_reduce(tensor([0.0_f32; 3]), ReduceOp::Sum)?;
        group.all_reduce(tensor([0.0_f32; 3]), ReduceOp::Sum)?;
        comm.group(Axis::Pp).barrier()?;
        let unused = comm.group(Axis::DpReplicate);
        assert_eq!(unused.counters().of("all_reduce").calls, 0);
        Ok::<_, CommError>(comm.counters())
    };
    let counters = launch_threads(4, CommTimeouts::uniform(PATIENT), run).expect("no rank fails");
    for counters in counters {
        assert_eq!(counters.keys().collect::<Vec<_>>(), ["pp", "tp"]);
        let of = |group: &str, op: &str| (counters[group][op].calls, counters[group][op].bytes);
        assert_eq!(of("tp", "all_gather"), (1, 48));
        assert_eq!(of("tp", "all_reduce"), (2, 24));
        assert_eq!(of("pp", "barrier"), (1, 0));
    }
}

#[test]
fn impossible_groups_are_refused() {
    let fabric = ThreadFabric::new(4, CommTimeouts::default());
    let rows: [(usize, &[usize], &str); 3] = [
        (3, &[0, 1], "rank 3 asks for it but its members are [0, 1]"),
        (0, &[0, 4], "rank 4 is not in a world of 4"),
        (0, &[0, 1, 1], "rank 1 stands twice in [0, 1, 1]"),
    ];
    for (rank, members, problem) in rows {
        let labels = members.iter().map(|rank| format!("rank {rank}")).collect();
        let error = fabric.group(rank, "x", members, labels).expect_err(problem);
        assert_eq!(error.to_string(), format!("group `x` cannot be made: {problem}"));
    }
    let error = MeshComm::new(fabric, mesh_b(), 0).expect_err("4 is not 24");
    assert!(error.to_string().contains("rank 0 of 4 has no place on a mesh of 24"), "{error}");
}
