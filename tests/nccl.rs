//! Ranks that are processes with a GPU each, over NCCL, on an emulated GPU: the collectives, the numbers
//! of the CPU on every kind of mesh, checkpoints across devices, and every way a process can go missing.
//!
//! `cargo xtask cuda-emulated` builds what they need and runs them.
#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping it")]

#[path = "support/processes.rs"]
mod processes;
#[path = "support/program.rs"]
mod program;
#[path = "support/tolerance.rs"]
mod tolerance;

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use processes::{begin, children, clean, ended, folder, gone, numbers, signal, succeeds, train};
use program::{PROGRAM, text};
use tolerance::{CURVE_BF16, FIRST_STEP, LATER_STEP};

const ON_GPU: &str = "device_parameters.device=cuda";

/// A call of the program where an emulated GPU takes the place of NVIDIA's libraries.
fn command<A: AsRef<std::ffi::OsStr>>(folder: &Path, arguments: &[A]) -> Command {
    let mut command = clean(folder, PROGRAM);
    for name in ["CUDA_PATH", "EMULATED_GPU_CACHE"] {
        let value = std::env::var_os(name);
        command.env(name, value.expect("these tests are run by `cargo xtask cuda-emulated`"));
    }
    command.args(arguments);
    command
}

/// Trains on GPUs, with as many processes as the mesh has ranks.
fn on_gpus(folder: &Path, name: &str, ranks: usize, sets: &[&str]) {
    let world = format!("device_parameters.world_size={ranks}");
    let sets = [&[ON_GPU, &world], sets].concat();
    succeeds(command(folder, &train(name, &sets)));
}

/// Trains one rank on the CPU.
fn on_cpu(folder: &Path, name: &str) {
    succeeds(command(folder, &train(name, &[])));
}

/// Compares every loss and gradient norm of two runs.
#[track_caller]
fn agree(folder: &Path, name: &str, other: &str) {
    let [ours, theirs] = [name, other].map(|name| numbers(folder, name));
    assert_eq!((ours.len(), theirs.len()), (6, 6), "{name}");
    for (step, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
        let limit = if step == 0 { FIRST_STEP } else { LATER_STEP };
        for (ours, theirs) in [(&ours.0, &theirs.0), (&ours.1, &theirs.1)] {
            let [ours, theirs] = [ours, theirs].map(|text| text.parse::<f64>().unwrap());
            let difference = (ours - theirs).abs() / theirs.abs();
            assert!(difference <= limit, "{name}, step {}: {ours} and {theirs}", step + 1);
        }
    }
}

#[test]
fn doctor_finds_gpu_compiler_and_nccl() {
    let folder = folder();
    let shown = succeeds(command(folder.path(), &["doctor"]));
    for part in ["libcuda, 1 GPUs", "libnvrtc, headers in", "libnccl 2.30.4", "may share a GPU"] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
}

#[test]
fn every_collective_passes_on_one_two_and_four_processes() {
    let folder = folder();
    for (ranks, degrees) in [("1", "1"), ("2", "1"), ("4", "2")] {
        let arguments = ["selftest", "--device", "cuda", "--world-size", ranks, "--tp", degrees];
        let shown = succeeds(command(folder.path(), &arguments));
        assert!(shown.contains("device all_reduce(sum) bf16"), "{shown}");
        let plural = if ranks == "1" { "" } else { "s" };
        let last = format!("checks on {ranks} rank{plural}: ok");
        assert!(shown.contains(&last), "{shown}");
    }
}

#[test]
fn every_mesh_computes_the_numbers_of_one_rank_on_the_cpu() {
    let folder = folder();
    on_cpu(folder.path(), "cpu");
    let rows: [(&str, usize, &[&str]); 8] = [
        ("one", 1, &[]),
        ("ddp", 2, &["device_parameters.preset=ddp"]),
        ("fsdp", 2, &["device_parameters.preset=fsdp"]),
        ("tp", 2, &["device_parameters.tensor_parallel=2"]),
        ("fsdp4", 4, &["device_parameters.preset=fsdp"]),
        (
            "async",
            2,
            &[
                "device_parameters.tensor_parallel=2",
                "device_parameters.async_tensor_parallel=true",
            ],
        ),
        ("hsdp", 4, &["device_parameters.dp_replicate=2", "device_parameters.dp_shard=2"]),
        ("mesh", 4, &["device_parameters.preset=fsdp", "device_parameters.tensor_parallel=2"]),
    ];
    for (name, ranks, sets) in rows {
        on_gpus(folder.path(), name, ranks, sets);
        agree(folder.path(), name, "cpu");
    }
}

#[test]
fn thread_ranks_on_one_gpu_compute_the_same() {
    let folder = folder();
    on_cpu(folder.path(), "cpu");
    let sets = ["device_parameters.preset=fsdp", "device_parameters.ranks=threads"];
    on_gpus(folder.path(), "threads", 2, &sets);
    agree(folder.path(), "threads", "cpu");
}

#[test]
fn half_precision_stays_close_to_full_precision() {
    let folder = folder();
    on_cpu(folder.path(), "cpu");
    let sets = ["device_parameters.preset=fsdp", "device_parameters.param_dtype=bf16"];
    on_gpus(folder.path(), "half", 2, &sets);
    let [half, full] = ["half", "cpu"].map(|name| numbers(folder.path(), name));
    for ((half, _), (full, _)) in half.iter().zip(&full) {
        let [half, full] = [half, full].map(|text| text.parse::<f64>().unwrap());
        assert!((half - full).abs() <= CURVE_BF16 * full, "{half} and {full}");
    }
    assert_ne!(half, full, "computed in 16 bits");
}

#[test]
fn benchmark_and_profile_tell_of_the_gpu() {
    let folder = folder();
    let set = |value: &'static str| ["--set", value];
    let run = [&["--config", "run.toml", "--world-size", "2"], &set(ON_GPU)[..]].concat();
    let run = [&run[..], &set("device_parameters.preset=fsdp")].concat();
    let timed = [&run[..], &["benchmark", "--json", "--warmup", "1", "--steps", "2"]].concat();
    let shown = succeeds(command(folder.path(), &timed));
    let line = shown.lines().find(|line| line.starts_with('{')).expect("one line of JSON");
    let report: serde_json::Value = serde_json::from_str(line).unwrap();
    assert!(report["peak_gpu_bytes"].as_u64() > Some(1 << 16), "{report}");
    let recorded = [&run[..], &["profile", "--steps", "1", "--output", "trace.json"]].concat();
    succeeds(command(folder.path(), &recorded));
    let trace = std::fs::read_to_string(folder.path().join("trace.json")).unwrap();
    assert!(trace.contains("all_gather") && trace.contains("reduce_scatter"), "{trace}");
}

#[test]
fn a_run_continues_on_another_device() {
    let folder = folder();
    on_cpu(folder.path(), "whole");
    let saves = ["checkpoint.enable=true", "checkpoint.every_n_steps=2"];
    let gpus = [ON_GPU, "device_parameters.preset=fsdp", "device_parameters.world_size=2"];
    for (name, starts_on_gpus) in [("there", true), ("back", false)] {
        for (is_on_gpus, steps) in [(starts_on_gpus, 2), (!starts_on_gpus, 6)] {
            let length = format!("training_parameters.steps={steps}");
            let device: &[&str] = if is_on_gpus { &gpus } else { &[] };
            let sets = [&saves[..], &[length.as_str()], device].concat();
            succeeds(command(folder.path(), &train(name, &sets)));
        }
        agree(folder.path(), name, "whole");
    }
}

#[test]
fn ranks_have_gpus_of_their_own_or_an_nccl_that_shares() {
    let folder = folder();
    let arguments =
        train("old", &[ON_GPU, "device_parameters.preset=ddp", "device_parameters.world_size=2"]);
    let old = |gpus: &str| {
        let mut command = command(folder.path(), &arguments);
        command.env("EMULATED_NCCL_VERSION", "22809").env("EMULATED_GPUS", gpus);
        command
    };
    let output = old("1").output().unwrap();
    let shown = text(&output);
    assert_ne!(output.status.code(), Some(0), "{shown}");
    assert!(shown.contains("2.28.9") && shown.contains("2.30"), "{shown}");
    succeeds(old("2"));
}

#[test]
fn torchrun_starts_the_ranks() {
    let folder = folder();
    on_cpu(folder.path(), "cpu");
    let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let arguments = train("joined", &[ON_GPU, "device_parameters.preset=fsdp"]);
    let ranks = ["0", "1"].map(|rank| {
        let mut command = command(folder.path(), &arguments);
        let world = [("WORLD_SIZE", "2"), ("LOCAL_WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1")];
        command.envs(world).env("RANK", rank).env("LOCAL_RANK", rank);
        command.env("MASTER_PORT", port.to_string()).env("NCCL_MULTI_RANK_GPU_ENABLE", "1");
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        command.spawn().unwrap()
    });
    for rank in ranks {
        let (code, shown) = ended(rank);
        assert_eq!(code, Some(0), "{shown}");
    }
    agree(folder.path(), "joined", "cpu");
}

/// A run of two processes that goes on until something ends it.
fn long_run(folder: &Path, sets: &[&str]) -> Command {
    let more = [
        ON_GPU,
        "device_parameters.preset=fsdp",
        "device_parameters.world_size=2",
        "training_parameters.steps=1000000",
    ];
    command(folder, &train("long", &[&more[..], sets].concat()))
}

#[test]
fn a_killed_rank_ends_the_run_and_is_named() {
    let folder = folder();
    let child = begin(folder.path(), long_run(folder.path(), &[]));
    let ranks = children(child.id());
    assert_eq!(ranks.len(), 2, "one child for each rank");
    signal("-KILL", ranks[1]);
    let (code, shown) = ended(child);
    assert_ne!(code, Some(0), "{shown}");
    assert!(shown.contains("rank 1"), "{shown}");
    gone(&ranks);
}

#[test]
fn a_rank_that_hangs_ends_the_run_with_step_and_operation_when_the_time_is_over() {
    let folder = folder();
    let run = long_run(folder.path(), &["device_parameters.comm.timeout_secs=5"]);
    let child = begin(folder.path(), run);
    let ranks = children(child.id());
    signal("-STOP", ranks[1]);
    let (code, shown) = ended(child);
    assert_eq!(code, Some(3), "{shown}");
    for part in ["error: rank 0", "step ", "call ", "waited 5s"] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    gone(&ranks);
}
