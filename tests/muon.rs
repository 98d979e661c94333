//! Muon takes the same steps whatever the mesh, and moves what it is made for.
#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping it")]

#[allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]
mod support;

use support::{Run, TINY, close};

const MUON: [&str; 3] = ["optimizer.name=muon", "optimizer.lr=0.02", "optimizer.adamw_lr=1e-2"];

fn losses(sets: &[&str]) -> Vec<(f64, f64)> {
    let folder = tempfile::tempdir().unwrap();
    let (_, seen) = Run::new(folder.path(), TINY).with(&MUON).with(sets).go().unwrap();
    seen.steps.iter().map(|step| (step.loss, step.grad_norm)).collect()
}

#[test]
fn split_matrices_take_the_steps_of_whole_ones() {
    let reference = losses(&[]);
    assert!(reference[5].0 < reference[0].0, "the loss falls: {reference:?}");
    for mesh in [
        &["world_size=2", "preset=ddp"][..],
        &["world_size=2", "preset=fsdp"],
        &["world_size=4", "preset=fsdp"],
        &["world_size=2", "preset=fsdp", "reshard=optimizer"],
        &["world_size=4", "preset=hsdp", "dp_shard=2"],
        &["world_size=2", "tensor_parallel=2"],
        &["world_size=4", "preset=fsdp", "tensor_parallel=2"],
    ] {
        let sets: Vec<String> = mesh.iter().map(|set| format!("device_parameters.{set}")).collect();
        let split = losses(&sets.iter().map(String::as_str).collect::<Vec<_>>());
        for (step, (a, b)) in reference.iter().zip(&split).enumerate() {
            let tolerance = if step == 0 { 1e-6 } else { 1e-5 };
            let what = |number| format!("{mesh:?}: {number} of step {}", step + 1);
            close(a.0, b.0, tolerance, &what("loss"));
            close(a.1, b.1, tolerance, &what("gradient norm"));
        }
    }
}

#[test]
fn copies_of_a_matrix_take_the_step_of_one() {
    let reference = losses(&[]);
    let split = losses(&["device_parameters.world_size=4", "device_parameters.tensor_parallel=4"]);
    for (step, (a, b)) in reference.iter().zip(&split).enumerate() {
        let tolerance = if step == 0 { 1e-6 } else { 1e-5 };
        close(a.0, b.0, tolerance, &format!("loss of step {}", step + 1));
        close(a.1, b.1, tolerance, &format!("gradient norm of step {}", step + 1));
    }
}

#[test]
fn a_recipe_without_hidden_matrices_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mlp = r#"
[model]
name = "mlp"
widths = [16, 8]
[training_parameters]
steps = 1
global_batch_size = 8
sequence_length = 16
[data]
source = "synthetic"
"#;
    let refused = Run::new(folder.path(), mlp).with(&["optimizer.name=muon"]).go().unwrap_err();
    assert!(refused.contains("needs hidden matrices"), "{refused}");
}
