//! The order of things, with a program that only pretends to train.

use std::os::unix::fs::PermissionsExt;

use super::*;

/// Prints and writes what the program would; its losses on the GPU are a little off, with 4 ranks a lot,
/// and its selftest on 2 ranks fails.
const PRETENDER: &str = r#"#!/bin/sh
case "$*" in
doctor) echo "ok     build         pretended" ;;
*selftest*"--world-size 2") echo "rank 1: wrong"; exit 3 ;;
*selftest*) echo "40 checks on 1 rank: ok (1.0 s)" ;;
*bench-kernels*)
    echo '{"kernels":[{"name":"rope","forward_seconds":0.002,"backward_seconds":0}]}'
    ;;
*benchmark*)
    echo '{"traceEvents":[{"ph":"X","name":"forward","pid":0,"dur":2000}]}' > trace.json
    echo '{"tokens_per_second":{"median":1234.5},"step_seconds":{"median":6.6},"mfu_percent":12.5}'
    ;;
*)
    name=$(echo "$*" | sed 's/.*run.experiment=\([a-z0-9]*\).*/\1/')
    mkdir -p runs/parity/llama3/$name
    case $name in cpu) loss=4.0 ;; cuda4) loss=4.5 ;; *) loss=4.000001 ;; esac
    echo "{\"step\":1,\"loss\":$loss}" > runs/parity/llama3/$name/metrics.jsonl
    ;;
esac
"#;

fn pretend(name: &str, budget: u64, part: Vec<Part>) -> (Result<(), String>, PathBuf) {
    let folder = std::env::temp_dir().join(format!("xtask-gpu-{name}-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    let program = folder.join("pretender");
    fs::write(&program, PRETENDER).expect("a file");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("a program");
    let output = folder.join("report");
    let args = GpuArgs { program, output, part, budget, batch: 2, steps: 3 };
    (run_all(&args), folder)
}

fn step<'a>(report: &'a Value, name: &str) -> &'a Value {
    let steps = report["steps"].as_array().expect("steps");
    steps.iter().find(|step| step["name"] == name).unwrap_or_else(|| panic!("{name} is missing"))
}

#[test]
fn every_step_runs_whatever_the_others_did_and_all_is_written() {
    let (result, folder) = pretend("all", 300, Vec::new());
    assert_eq!(result, Err("a step failed".to_owned()));
    let text = fs::read_to_string(folder.join("report/report.json")).expect("it was written");
    let report: Value = serde_json::from_str(&text).expect("JSON");
    let endings = [
        ("doctor", "passed"),
        ("selftest, 1 rank", "passed"),
        ("selftest, 2 ranks on one GPU", "failed"),
        ("losses on the CPU", "passed"),
        ("losses on the GPU", "passed"),
        ("2 threads on one GPU", "passed"),
        ("4 threads on one GPU", "passed"),
        ("2 ranks on one GPU over NCCL", "passed"),
        ("4 ranks on one GPU over NCCL", "failed"),
        ("1B in bf16, sequence 4096", "passed"),
        ("profile", "passed"),
        ("operations", "passed"),
        ("1B, 8 layers, sequence 2048, recompute none", "passed"),
        ("8B, 8 layers, sequence 32768, recompute full", "passed"),
    ];
    for (name, ending) in endings {
        assert_eq!(step(&report, name)["ending"], ending, "{name}: {report:#}");
    }
    let difference = &step(&report, "losses on the GPU")["figures"]["difference at step 1"];
    assert!((difference.as_f64().expect("a number") - 2.5e-7).abs() < 1e-9, "{difference}");
    let far = step(&report, "4 ranks on one GPU over NCCL")["note"].as_str().expect("a note");
    assert!(far.contains("1.2e-1 at step 1"), "{far}");
    let timed = step(&report, "1B in bf16, sequence 4096");
    assert_eq!(timed["figures"]["mfu_percent"], json!(12.5));
    assert_eq!(step(&report, "profile")["figures"]["forward (ms)"], json!(2.0));
    let markdown = fs::read_to_string(folder.join("report/report.md")).expect("it was written");
    assert!(markdown.contains("| selftest, 2 ranks on one GPU | FAILED |"), "{markdown}");
    assert!(folder.join("report/selftest__2_ranks_on_one_GPU.log").exists());
    fs::remove_dir_all(folder).expect("it was there");
}

#[test]
fn without_time_nothing_runs_and_the_report_says_so() {
    let (result, folder) = pretend("none", 0, Vec::new());
    assert_eq!(result, Ok(()));
    let text = fs::read_to_string(folder.join("report/report.json")).expect("it was written");
    let report: Value = serde_json::from_str(&text).expect("JSON");
    let steps = report["steps"].as_array().expect("steps");
    assert!(steps.iter().all(|step| step["ending"] == "not run"), "{report:#}");
    fs::remove_dir_all(folder).expect("it was there");
}

#[test]
fn a_part_runs_alone() {
    let (result, folder) = pretend("part", 300, vec![Part::Speed]);
    assert_eq!(result, Ok(()));
    let text = fs::read_to_string(folder.join("report/report.json")).expect("it was written");
    let report: Value = serde_json::from_str(&text).expect("JSON");
    let steps = report["steps"].as_array().expect("steps").iter();
    let names: Vec<&str> = steps.filter_map(|step| step["name"].as_str()).collect();
    assert_eq!(names[..3], ["doctor", "1B in bf16, sequence 4096", "profile"]);
    fs::remove_dir_all(folder).expect("it was there");
}
