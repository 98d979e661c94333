//! `dream-train topo`: the listings of a known 24-rank run, and everything else the command prints.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod listings;

use std::io::{self, Write};
use std::time::{Duration, Instant};

use clap::Parser;
use dream_trainer::cli::topo::{TopoArgs, TopoError, run};
use serde_json::Value;

use crate::listings::{Dims, own, read_ranks};

#[derive(Parser)]
#[command(name = "topo")]
struct Command {
    #[command(flatten)]
    topo: TopoArgs,
}

fn parse(arguments: &str) -> Result<TopoArgs, clap::Error> {
    let words = std::iter::once("topo").chain(arguments.split_whitespace());
    Command::try_parse_from(words).map(|command| command.topo)
}

fn topo(arguments: &str) -> String {
    let mut out = Vec::new();
    run(&parse(arguments).unwrap(), &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn json(arguments: &str) -> Value {
    serde_json::from_str(&topo(&format!("{arguments} --json"))).unwrap()
}

#[test]
fn the_default_order_puts_stages_outermost() {
    let ranks = read_ranks(&topo("--world-size 24 --tp 2 --cp 2 --pp 2")).unwrap();
    assert_eq!((ranks[4]["pp"], ranks[4]["dp"]), (0, 1));
    assert_eq!((ranks[12]["pp"], ranks[12]["dp"]), (1, 0));
}

#[test]
fn json_says_the_same_as_the_lines() {
    for arguments in [
        "--world-size 24 --tp 2 --cp 2 --pp 2 --mesh-order dp,pp,cp,tp",
        "--world-size 16 --tp 2 --dp-replicate 2",
        "--world-size 4",
    ] {
        let document = json(arguments);
        let ranks = document["ranks"].as_array().unwrap();
        let lines = read_ranks(&topo(arguments)).unwrap();
        assert_eq!(ranks.len(), lines.len());
        for (rank, (entry, dims)) in ranks.iter().zip(&lines).enumerate() {
            assert_eq!(entry["rank"], rank);
            assert!(dims.iter().all(|(name, index)| entry[name] == *index), "{arguments} {rank}");
        }
    }
}

#[test]
fn hybrid_sharding_prints_both_data_parallel_axes() {
    let ranks = read_ranks(&topo("--world-size 16 --tp 2 --dp-replicate 2")).unwrap();
    let dims = [("tp", 1), ("dp_replicate", 1), ("dp_shard", 2)];
    assert_eq!(ranks[13], Dims::from(dims.map(own)));
    assert!(topo("--world-size 1").ends_with("size 1\n[0/0]:\n"));
}

#[test]
fn degrees_left_out_are_derived() {
    // (arguments, sizes of tp, cp, pp, dp_replicate, dp_shard)
    let rows = [
        ("--world-size 8", [1, 1, 1, 1, 8]),
        ("--world-size 8 --tp 2 --dp-replicate 2", [2, 1, 1, 2, 2]),
        ("--world-size 8 --tp 2 --dp-shard 2", [2, 1, 1, 2, 2]),
        ("--world-size 8 --tp auto --cp 2", [4, 2, 1, 1, 1]),
        ("--world-size 8 --dp-shard auto --pp 4", [1, 1, 4, 1, 2]),
    ];
    for (arguments, sizes) in rows {
        let mesh = &json(&format!("{arguments} --summary"))["mesh"];
        let found = ["tp", "cp", "pp", "dp_replicate", "dp_shard"].map(|axis| mesh[axis].clone());
        assert_eq!(found, sizes.map(Value::from), "{arguments}");
    }
}

#[test]
fn groups_are_listed_and_flagged_where_they_cross_nodes() {
    let arguments = "--world-size 24 --tp 2 --cp 2 --pp 2 --mesh-order dp,pp,cp,tp --groups --ranks-per-node 12";
    insta::assert_snapshot!("groups_of_b", topo(arguments));
    // The document says the same: one entry per group, and more than one node where it crosses.
    let document = json(arguments);
    for axis in document["axes"].as_array().unwrap() {
        let members = axis["members"].as_array().unwrap();
        let crosses = |group: &&Value| group["nodes"].as_array().unwrap().len() > 1;
        assert_eq!(members.len(), axis["groups"], "{axis}");
        assert_eq!(members.iter().filter(crosses).count(), axis["crossing"], "{axis}");
    }
    let small = "--world-size 4 --tp 2 --groups --ranks-per-node 2 --json";
    insta::assert_snapshot!("groups_json", topo(small));
}

#[test]
fn summaries_show_sizes_and_strides_without_ranks() {
    let flags = "--dp-replicate 2 --dp-shard 8 --cp 2 --tp 8 --pp 4 --summary --ranks-per-node 8";
    insta::assert_snapshot!("summary_of_1024", topo(&format!("--world-size 1024 {flags}")));
    insta::assert_snapshot!("summary_json", topo("--world-size 4 --tp 2 --summary --json"));
}

#[test]
fn a_million_ranks_are_summarized_in_under_a_second() {
    let flags = "--tp 8 --cp 5 --pp 25 --summary --ranks-per-node 8";
    let start = Instant::now();
    let text = topo(&format!("--world-size 1000000 {flags}"));
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert!(text.lines().count() < 16, "{text}");
    assert!(text.contains("world size 1000000"), "{text}");
}

/// The table of the 24-rank page, `tp cp pp dp`; two of its rows multiply to 48.
const PUBLISHED_SHAPES: [[u64; 4]; 19] = [
    [1, 1, 1, 24],
    [2, 1, 1, 12],
    [1, 2, 1, 12],
    [1, 1, 2, 12],
    [2, 2, 1, 6],
    [2, 1, 2, 6],
    [1, 2, 2, 6],
    [4, 1, 1, 6],
    [1, 4, 1, 6],
    [1, 1, 4, 6],
    [4, 2, 1, 3],
    [4, 1, 2, 3],
    [2, 4, 1, 3],
    [2, 1, 4, 3],
    [1, 4, 2, 3],
    [1, 2, 4, 3],
    [4, 2, 2, 3],
    [2, 4, 2, 3],
    [2, 2, 2, 3],
];

#[test]
fn enumeration_corrects_the_published_table() {
    let arguments = "--world-size 24 --enumerate --powers-of-two --max-product 8";
    let document = json(arguments);
    let shapes: Vec<[u64; 4]> = document["shapes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|shape| ["tp", "cp", "pp", "dp"].map(|axis| shape[axis].as_u64().unwrap()))
        .collect();
    assert_eq!(shapes.len(), 20);
    let (valid, invalid): (Vec<_>, Vec<_>) =
        PUBLISHED_SHAPES.iter().partition(|shape| shapes.contains(shape));
    assert_eq!(valid.len(), 17);
    assert_eq!(invalid, [&[4, 2, 2, 3], &[2, 4, 2, 3]]);
    let missing: Vec<_> = shapes.iter().filter(|shape| !valid.contains(shape)).collect();
    assert_eq!(missing, [&[1, 1, 8, 3], &[1, 8, 1, 3], &[8, 1, 1, 3]]);
    insta::assert_snapshot!("shapes_of_24", topo(arguments));
    let fixed = json("--world-size 24 --enumerate --tp 4 --ranks-per-node 4");
    assert!(fixed["shapes"].as_array().unwrap().iter().all(|shape| shape["tp"] == 4));
    let narrow = json("--world-size 24 --enumerate --ranks-per-node 2");
    assert!(
        narrow["shapes"].as_array().unwrap().iter().all(|shape| shape["tp"].as_u64() <= Some(2))
    );
}

#[test]
fn tensor_parallel_groups_that_straddle_nodes_are_warned_about() {
    let straddling = "--world-size 24 --tp 8 --ranks-per-node 12";
    let warning = "1 of 3 tp groups cross nodes: tp 8 does not divide 12 ranks per node";
    assert!(topo(straddling).contains(&format!("\nwarning: {warning}\n")));
    assert_eq!(json(straddling)["warnings"], serde_json::json!([warning]));
    assert_eq!(
        json("--world-size 24 --tp 6 --ranks-per-node 12")["warnings"],
        Value::Array(vec![])
    );
    let wide = "--world-size 32 --tp 16 --ranks-per-node 8 --allow-tp-across-nodes";
    assert!(topo(wide).contains("warning: 2 of 2 tp groups cross nodes"));
}

#[test]
fn arguments_that_describe_no_mesh_are_refused_with_numbers_and_a_way_out() {
    let rows = [
        "--world-size 24 --tp 4 --cp 2 --pp 2",
        "--world-size 24 --tp 4 --cp 2 --pp 2 --dp-replicate 1 --dp-shard 3",
        "--world-size 8 --tp auto --cp auto",
        "--world-size 0",
        "--world-size 0 --enumerate",
        "--world-size 16 --tp 16 --ranks-per-node 8",
        "--world-size 16 --ranks-per-node 0",
    ];
    let report: String = rows
        .into_iter()
        .flat_map(|arguments| {
            let error = run(&parse(arguments).unwrap(), &mut Vec::new()).unwrap_err();
            let hint = error.hint().map(|hint| format!("  {hint}\n"));
            [format!("{arguments}\n  {error}\n"), hint.unwrap_or_default()]
        })
        .collect();
    insta::assert_snapshot!("refused_meshes", report);
}

#[test]
fn malformed_flags_are_refused_by_the_parser() {
    let rows = [
        ("--world-size 8 --tp 0", "`0` is not a degree: it must be an integer of at least 1"),
        ("--world-size 8 --cp two", "`two` is not a degree"),
        ("--world-size 8 --mesh-order tp,cp,pp,dp", "mesh order `tp,cp,pp,dp` is not supported"),
        ("--world-size 8 --mesh-order pp,ddp,cp,tp", "`ddp` is not a mesh axis"),
        ("--world-size 8 --groups --summary", "cannot be used with"),
        ("--world-size 8 --powers-of-two", "--enumerate"),
        ("--world-size 8 --enumerate --dp-shard 2", "cannot be used with"),
        ("--tp 2", "--world-size <N>"),
    ];
    for (arguments, message) in rows {
        let error = parse(arguments).expect_err(arguments).to_string();
        assert!(error.contains(message), "{error}");
    }
}

/// Accepts a number of bytes and then fails as an operating system would.
struct Failing {
    accepted: usize,
    kind: io::ErrorKind,
}

impl Write for Failing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.accepted == 0 {
            return Err(self.kind.into());
        }
        let taken = bytes.len().min(self.accepted);
        self.accepted -= taken;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_closed_pipe_ends_the_output_and_any_other_failure_is_reported() {
    for mode in ["", "--json", "--groups", "--groups --json", "--summary", "--enumerate"] {
        let args = parse(&format!("--world-size 1000 {mode}")).unwrap();
        for accepted in [0, 10, 50] {
            let mut closed = Failing { accepted, kind: io::ErrorKind::BrokenPipe };
            assert!(run(&args, &mut closed).is_ok(), "{mode}");
            let mut full = Failing { accepted, kind: io::ErrorKind::StorageFull };
            assert!(matches!(run(&args, &mut full), Err(TopoError::Write(_))), "{mode}");
        }
    }
}
