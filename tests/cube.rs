//! Whole runs on a `CubeCL` device equal those of the CPU; several ranks share the device.
#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping it")]

#[allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]
mod support;

use support::tolerance::{FIRST_STEP, LATER_STEP, SHADER, SHADER_LATER};
use support::{Run, TINY, close};

/// Against one rank of the same device, at the first and at later steps.
const MESH: [f64; 2] = [FIRST_STEP, LATER_STEP];

/// Against the CPU.
const CPU: [f64; 2] = [SHADER, SHADER_LATER];

fn losses(device: &str, sets: &[&str]) -> Vec<(f64, f64)> {
    let folder = tempfile::tempdir().unwrap();
    let device = format!("device_parameters.device={device}");
    let fixed = ["training_parameters.steps=5", "optimizer.name=sgd", "optimizer.lr=1e-2", &device];
    let (_, seen) = Run::new(folder.path(), TINY).with(&fixed).with(sets).go().unwrap();
    seen.steps.iter().map(|step| (step.loss, step.grad_norm)).collect()
}

#[track_caller]
fn check(what: &str, actual: &[(f64, f64)], expected: &[(f64, f64)], tolerances: [f64; 2]) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    for (step, (a, b)) in actual.iter().zip(expected).enumerate() {
        let tolerance = tolerances[usize::from(step > 0)];
        close(a.0, b.0, tolerance, &format!("{what}: loss of step {}", step + 1));
        close(a.1, b.1, tolerance, &format!("{what}: gradient norm of step {}", step + 1));
    }
}

#[test]
fn one_rank_gives_the_losses_of_the_cpu() {
    check("one rank", &losses("wgpu", &[]), &losses("cpu", &[]), CPU);
    let adamw = ["optimizer.name=adamw", "training_parameters.gradient_accumulation_steps=2"];
    check("AdamW", &losses("wgpu", &adamw), &losses("cpu", &adamw), CPU);
}

#[test]
fn every_mesh_gives_the_losses_of_one_rank() {
    let reference = losses("wgpu", &[]);
    for mesh in [
        &["world_size=2", "preset=ddp"][..],
        &["world_size=2", "tensor_parallel=2"],
        &["world_size=2", "tensor_parallel=2", "sequence_parallel=false", "loss_parallel=false"],
        &["world_size=2", "tensor_parallel=2", "async_tensor_parallel=true"],
        &["world_size=2", "preset=fsdp"],
        &["world_size=2", "preset=fsdp", "activation_checkpointing=full"],
        &["world_size=2", "preset=fsdp", "reshard=optimizer"],
        &["world_size=1", "cpu_offload=true"],
        &["world_size=2", "preset=fsdp", "cpu_offload=true"],
        &["world_size=2", "preset=fsdp", "cpu_offload=true", "activation_checkpointing=full"],
        &["world_size=4", "preset=hsdp", "dp_shard=2", "cpu_offload=true"],
        &["world_size=4", "preset=hsdp", "dp_shard=2"],
        &["world_size=4", "preset=fsdp", "tensor_parallel=2"],
    ] {
        let sets: Vec<String> = mesh.iter().map(|set| format!("device_parameters.{set}")).collect();
        let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
        check(&sets.join(", "), &losses("wgpu", &sets), &reference, MESH);
    }
}

#[test]
fn a_run_resumes_on_another_device_from_its_checkpoint() {
    let whole = losses("cpu", &[]);
    let folder = tempfile::tempdir().unwrap();
    let run = |device: &str, stop: Option<u64>| {
        let device = format!("device_parameters.device={device}");
        let sets = [
            "training_parameters.steps=5",
            "optimizer.name=sgd",
            "optimizer.lr=1e-2",
            "checkpoint.enable=true",
            "checkpoint.every_n_steps=1",
            &device,
        ];
        let run = Run::new(folder.path(), TINY).with(&sets);
        let run = match stop {
            Some(step) => run.stopping_after(step),
            None => run,
        };
        run.go().unwrap().1.steps
    };
    let first = run("wgpu", Some(2));
    let second = run("cpu", None);
    let steps = first.iter().chain(&second).map(|step| (step.loss, step.grad_norm));
    check("resumed", &steps.collect::<Vec<_>>(), &whole, CPU);
}
