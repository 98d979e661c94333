//! Ranks that are processes, under `mpirun`: the collectives on known inputs, the numbers of thread
//! ranks, checkpoints across both, and every way a process can go missing.
//!
//! They need the feature `mpi` and Open MPI's `mpirun`: `cargo test --features mpi --test mpi`.
#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping it")]

#[path = "support/processes.rs"]
mod processes;
#[path = "support/program.rs"]
mod program;

use std::fs;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Instant;

use processes::{
    PROMPT, TOML, begin, children, clean, ended, folder, gone, numbers, signal, succeeds, train,
};
use program::{PROGRAM, text};

/// A command in an environment in which Open MPI starts as many processes as asked.
fn command(folder: &Path, program: &str) -> Command {
    let mut command = clean(folder, program);
    for (name, value) in [
        ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
        ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
        ("OMPI_MCA_rmaps_base_oversubscribe", "1"),
        ("OMPI_MCA_hwloc_base_binding_policy", "none"),
    ] {
        command.env(name, value);
    }
    command
}

fn mpirun(folder: &Path, processes: usize, arguments: &[&str]) -> Command {
    let mut command = command(folder, "mpirun");
    command.args(["-n", &processes.to_string(), PROGRAM]).args(arguments);
    command
}

/// Trains with threads, then with processes.
fn both_ways(folder: &Path, name: &str, processes: usize, sets: &[&str]) {
    let world = format!("device_parameters.world_size={processes}");
    let mut alone = command(folder, PROGRAM);
    alone.args(train(&format!("{name}-threads"), sets)).args(["--set", &world]);
    succeeds(alone);
    let arguments = train(&format!("{name}-processes"), sets);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    succeeds(mpirun(folder, processes, &arguments));
}

#[test]
#[cfg_attr(not(feature = "mpi"), ignore = "needs the feature `mpi`")]
fn every_collective_passes_on_four_processes() {
    let folder = folder();
    let shown = succeeds(mpirun(folder.path(), 4, &["selftest", "--tp", "2"]));
    assert!(shown.contains("checks on 4 ranks: ok"), "{shown}");
    assert_eq!(shown.matches("mismatched calls are refused").count(), 1, "{shown}");
    assert!(shown.contains("handshake along tp") && shown.contains("2 groups of 2"), "{shown}");
}

#[test]
#[cfg_attr(not(feature = "mpi"), ignore = "needs the feature `mpi`")]
fn processes_compute_the_numbers_of_threads_bit_for_bit() {
    let folder = folder();
    let rows: [(&str, usize, &[&str]); 5] = [
        ("ddp", 2, &["device_parameters.preset=ddp"]),
        ("fsdp", 2, &["device_parameters.preset=fsdp"]),
        ("ddp4", 4, &["device_parameters.preset=ddp"]),
        ("mesh", 4, &["device_parameters.preset=fsdp", "device_parameters.tensor_parallel=2"]),
        // Two ranks hold a copy of each head, in a group of their own.
        ("heads", 4, &["device_parameters.tensor_parallel=4", "model.num_kv_heads=2"]),
    ];
    for (name, processes, sets) in rows {
        both_ways(folder.path(), name, processes, sets);
        let threads = numbers(folder.path(), &format!("{name}-threads"));
        assert_eq!(threads.len(), 6, "{name}");
        assert_eq!(numbers(folder.path(), &format!("{name}-processes")), threads, "{name}");
    }
}

#[test]
#[cfg_attr(not(feature = "mpi"), ignore = "needs the feature `mpi`")]
fn reductions_of_the_library_agree_to_rounding() {
    let folder = folder();
    let sets = ["device_parameters.preset=ddp", "device_parameters.comm.reduction=library"];
    both_ways(folder.path(), "library", 4, &sets);
    let threads = numbers(folder.path(), "library-threads");
    let processes = numbers(folder.path(), "library-processes");
    for (one, other) in threads.iter().zip(&processes) {
        let (one, other): (f64, f64) = (one.0.parse().unwrap(), other.0.parse().unwrap());
        assert!((one - other).abs() <= 1e-6 * one.abs(), "{one} and {other}");
    }
}

#[test]
#[cfg_attr(not(feature = "mpi"), ignore = "needs the feature `mpi`")]
fn processes_save_what_threads_continue_and_back() {
    let folder = folder();
    let saves =
        ["device_parameters.preset=fsdp", "checkpoint.enable=true", "checkpoint.every_n_steps=2"];
    both_ways(folder.path(), "whole", 2, &saves);
    for (name, starts_as_processes) in [("there", true), ("back", false)] {
        for (is_processes, steps) in [(starts_as_processes, 2), (!starts_as_processes, 6)] {
            let length = format!("training_parameters.steps={steps}");
            let mut arguments = train(name, &saves);
            arguments.extend(["--set", &length].map(String::from));
            if is_processes {
                let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
                succeeds(mpirun(folder.path(), 2, &arguments));
            } else {
                let mut alone = command(folder.path(), PROGRAM);
                succeeds({
                    alone.args(&arguments).args(["--world-size", "2"]);
                    alone
                });
            }
        }
        let whole = numbers(folder.path(), "whole-threads");
        assert_eq!(numbers(folder.path(), name), whole, "{name}");
    }
}

#[test]
#[cfg_attr(not(feature = "mpi"), ignore = "needs the feature `mpi`")]
fn another_world_size_is_an_error_with_both_numbers() {
    let folder = folder();
    let arguments = ["--config", "run.toml", "--set", "device_parameters.world_size=3"];
    let output = mpirun(folder.path(), 2, &arguments).output().unwrap();
    let shown = text(&output);
    assert_eq!(output.status.code(), Some(2), "{shown}");
    assert!(shown.contains("world_size = 3") && shown.contains("started 2 ranks"), "{shown}");
    let auto = ["--config", "run.toml", "--set", "device_parameters.world_size=auto"];
    let arguments = [&auto[..], &["--set", "device_parameters.preset=ddp", "--cfg"]].concat();
    let shown = succeeds(mpirun(folder.path(), 2, &arguments));
    assert_eq!(shown.matches("[device_parameters]").count(), 1, "rank 0 alone prints: {shown}");
}

/// A file that one node lacks: one process starts in another folder.
#[test]
#[cfg_attr(not(feature = "mpi"), ignore = "needs the feature `mpi`")]
fn a_failing_rank_is_reported_once_with_the_others_and_its_exit_code() {
    let folder = folder();
    let config = TOML.replace(
        "source = \"synthetic\"\nvocab_size = 96\nnum_sequences = 64",
        "source = \"text\"\nfiles = [\"words.txt\"]",
    );
    let config = config.replace("vocab_size = 96", "vocab_size = 257");
    fs::write(folder.path().join("run.toml"), config).unwrap();
    let words = "the quick brown fox jumps over the lazy dog\n".repeat(60);
    fs::write(folder.path().join("words.txt"), words).unwrap();
    let lacking = folder.path().join("lacking");
    fs::create_dir(&lacking).unwrap();
    fs::copy(folder.path().join("run.toml"), lacking.join("run.toml")).unwrap();
    let arguments = train("lacks", &["device_parameters.preset=ddp"]);
    let mut job = command(folder.path(), "mpirun");
    job.args(["-n", "2", PROGRAM]).args(&arguments).arg(":");
    job.args(["-n", "1", "-wdir", lacking.to_str().unwrap(), PROGRAM]).args(&arguments).arg(":");
    job.args(["-n", "1", PROGRAM]).args(&arguments);
    let start = Instant::now();
    let output = job.output().unwrap();
    let shown = text(&output);
    assert!(start.elapsed() < PROMPT, "{shown}");
    assert_eq!(output.status.code(), Some(6), "{shown}");
    assert_eq!(shown.matches("error: rank ").count(), 1, "{shown}");
    assert!(
        shown.contains("error: rank 2 (dp_replicate2) failed") && shown.contains("words.txt"),
        "{shown}"
    );
    for rank in [0, 1, 3] {
        assert!(shown.contains(&format!("rank {rank} (dp_replicate{rank}) ended: ")), "{shown}");
    }
}

/// A long run of four processes that has begun to train.
fn long_run(folder: &Path, sets: &[&str]) -> (Child, Vec<u32>) {
    let more = ["device_parameters.preset=ddp", "training_parameters.steps=1000000"];
    let arguments = train("long", &[&more[..], sets].concat());
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let child = begin(folder, mpirun(folder, 4, &arguments));
    let ranks = children(child.id());
    assert_eq!(ranks.len(), 4, "one child of `mpirun` per rank");
    (child, ranks)
}

#[test]
#[cfg_attr(not(feature = "mpi"), ignore = "needs the feature `mpi`")]
fn a_killed_rank_ends_the_job_and_is_named() {
    let folder = folder();
    let (child, ranks) = long_run(folder.path(), &[]);
    signal("-KILL", ranks[2]);
    let (code, shown) = ended(child);
    assert_ne!(code, Some(0), "{shown}");
    assert!(shown.contains("rank 2"), "{shown}");
    gone(&ranks);
}

#[test]
#[cfg_attr(not(feature = "mpi"), ignore = "needs the feature `mpi`")]
fn a_rank_that_hangs_is_named_with_step_and_operation_when_the_time_is_over() {
    let folder = folder();
    let (child, ranks) = long_run(folder.path(), &["device_parameters.comm.timeout_secs=2"]);
    signal("-STOP", ranks[3]);
    let (code, shown) = ended(child);
    assert_eq!(code, Some(3), "{shown}");
    let parts = ["all_reduce", "rank 3 (dp_replicate3) (which gives no sign of life)", "step "];
    for part in parts {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    assert_eq!(shown.matches("error: rank ").count(), 1, "{shown}");
}

#[test]
#[cfg_attr(feature = "mpi", ignore = "speaks of a build without the feature `mpi`")]
fn a_build_without_mpi_says_what_to_build() {
    let folder = folder();
    for (rank, size) in [("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"), ("RANK", "WORLD_SIZE")] {
        let mut command = command(folder.path(), PROGRAM);
        command.args(["--config", "run.toml", "--set", "device_parameters.preset=ddp"]);
        command.env(rank, "0").env(size, "4");
        for local in ["OMPI_COMM_WORLD_LOCAL_RANK", "LOCAL_RANK"] {
            command.env(local, "0");
        }
        for local in ["OMPI_COMM_WORLD_LOCAL_SIZE", "LOCAL_WORLD_SIZE"] {
            command.env(local, "4");
        }
        let output = command.output().unwrap();
        let shown = text(&output);
        assert_eq!(output.status.code(), Some(3), "{shown}");
        for part in ["--features mpi", "4 processes"] {
            assert!(shown.contains(part), "{part} in {shown}");
        }
    }
}

/// torchrun starts no MPI ranks, whatever the build.
#[test]
#[cfg_attr(not(feature = "mpi"), ignore = "needs the feature `mpi`")]
fn torchrun_is_told_to_use_a_launcher_of_mpi() {
    let folder = folder();
    let mut command = command(folder.path(), PROGRAM);
    command.args(["--config", "run.toml", "--set", "device_parameters.preset=ddp"]);
    for (name, value) in
        [("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "2")]
    {
        command.env(name, value);
    }
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert!(text(&output).contains("mpirun -n 2"), "{}", text(&output));
}
