//! The selftest and the benchmark as their commands run them.

use clap::Parser;
use dream_trainer::cli::{bench_comm, selftest};
use dream_trainer::comm::Ranks;

#[derive(Debug, Parser)]
enum Command {
    Selftest(selftest::SelftestArgs),
    BenchComm(bench_comm::BenchCommArgs),
}

fn output(line: &str) -> Result<String, String> {
    let words = std::iter::once("dream-train").chain(line.split_whitespace());
    let command = Command::try_parse_from(words).map_err(|error| error.to_string())?;
    let mut out = Vec::new();
    match command {
        Command::Selftest(args) => {
            let ranks = Ranks::Threads(args.world_size);
            selftest::run(&args, &ranks, &mut out).map_err(|error| error.to_string())?;
        }
        Command::BenchComm(args) => {
            let ranks = Ranks::Threads(args.world_size);
            bench_comm::run(&args, &ranks, &mut out).map_err(|error| error.to_string())?;
        }
    }
    Ok(String::from_utf8(out).expect("tables are text"))
}

#[test]
fn selftest_passes_on_worlds_of_any_size() {
    for (line, last) in [
        ("selftest --world-size 1", "17 checks on 1 rank: ok"),
        ("selftest", "22 checks on 4 ranks: ok"),
        ("selftest --world-size 5 --tp auto", "19 checks on 5 ranks: ok"),
    ] {
        let table = output(line).expect(line);
        let end = table.lines().last().expect("a summary");
        assert!(end.starts_with(last), "{line}: {table}");
    }
}

#[test]
fn selftest_shakes_hands_along_every_axis_of_mesh_b() {
    let table = output("selftest --world-size 24 --tp 2 --cp 2 --pp 2 --mesh-order dp,pp,cp,tp");
    let table = table.expect("mesh B works");
    let handshakes: Vec<&str> =
        table.lines().filter(|line| line.starts_with("handshake")).collect();
    let expected = [
        ("pp", 12, 2),
        ("dp_shard", 8, 3),
        ("cp", 12, 2),
        ("tp", 12, 2),
        ("dp", 8, 3),
        ("fsdp", 4, 6),
        ("loss", 4, 6),
        ("world", 1, 24),
    ];
    let expected = expected.map(|(axes, count, size)| {
        let groups = if count == 1 { "group" } else { "groups" };
        let name = format!("handshake along {axes}");
        format!("{name:<32} ok  {count} {groups} of {size}")
    });
    assert_eq!(handshakes, expected);
}

#[test]
fn selftests_at_the_same_time_do_not_meet() {
    let one = || output("selftest --world-size 3").expect("three ranks");
    std::thread::scope(|scope| {
        let worlds: Vec<_> = (0..3).map(|_| scope.spawn(one)).collect();
        for world in worlds {
            let table = world.join().expect("no panic");
            assert!(table.contains("22 checks on 3 ranks: ok"), "{table}");
        }
    });
}

#[test]
fn selftest_refuses_a_mesh_that_does_not_fit() {
    let error = output("selftest --world-size 24 --tp 5").expect_err("5 does not divide 24");
    assert!(error.contains("24") && error.contains('5'), "{error}");
}

#[test]
fn bench_comm_reports_every_collective() {
    let table = output("bench-comm --world-size 3 --bytes 48KiB --warmup 0 --iters 2");
    let table = table.expect("three ranks");
    let names: Vec<&str> =
        table.lines().filter_map(|line| line.split_whitespace().next()).skip(2).collect();
    let expected =
        ["memcpy", "all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast"];
    assert_eq!(names[..6], expected, "{table}");
    let json = output("bench-comm --bytes 4KiB --warmup 0 --iters 1 --op all_reduce --json");
    let json: serde_json::Value = serde_json::from_str(&json.expect("two ranks")).expect("JSON");
    assert_eq!(json["rows"][1]["op"], "all_reduce");
    assert_eq!(json["rows"][1]["bytes"], 4096);
    // Two ranks: the bus bandwidth of an all-reduce is its algorithm bandwidth.
    assert_eq!(json["rows"][1]["bus_gb_per_s"], json["rows"][1]["algorithm_gb_per_s"]);
    let error = output("bench-comm --bytes 3").expect_err("less than one element");
    assert!(error.contains("`--bytes` is 3"), "{error}");
}
