//! Dropout draws the same masks on every mesh, and again when activations are computed again.
#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping it")]

#[allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]
mod support;

use support::{Run, Seen, close};

const GPT2: &str = r#"
[model]
name = "gpt2"
dim = 32
num_layers = 2
num_heads = 4
vocab_size = 96
max_seq_len = 16
dropout = 0.2

[training_parameters]
steps = 4
global_batch_size = 8
sequence_length = 16

[optimizer]
name = "sgd"
lr = 1e-2

[data]
source = "synthetic"
vocab_size = 96
num_sequences = 64
validation_fraction = 0.25

[metrics]
jsonl = false
"#;

fn run(sets: &[&str]) -> Seen {
    let folder = tempfile::tempdir().unwrap();
    Run::new(folder.path(), GPT2).with(sets).go().unwrap().1
}

fn numbers(seen: &Seen) -> Vec<(f64, f64)> {
    seen.steps.iter().map(|step| (step.loss, step.grad_norm)).collect()
}

#[test]
fn recomputed_activations_drop_the_same_elements() {
    let kept = numbers(&run(&[]));
    assert_ne!(kept, numbers(&run(&["model.dropout=0"])), "something is dropped");
    for checkpointing in ["full", "selective"] {
        let set = format!("device_parameters.activation_checkpointing={checkpointing}");
        assert_eq!(numbers(&run(&[&set])), kept, "{checkpointing}");
    }
}

#[test]
fn every_mesh_drops_the_same_elements() {
    let reference = numbers(&run(&[]));
    for sets in [
        &["device_parameters.world_size=2", "device_parameters.preset=ddp"][..],
        &["device_parameters.world_size=2", "device_parameters.preset=fsdp"],
        &["device_parameters.world_size=2", "device_parameters.tensor_parallel=2"],
        &[
            "device_parameters.world_size=2",
            "device_parameters.tensor_parallel=2",
            "device_parameters.sequence_parallel=false",
        ],
        &[
            "device_parameters.world_size=4",
            "device_parameters.preset=fsdp",
            "device_parameters.tensor_parallel=2",
            "device_parameters.activation_checkpointing=full",
        ],
        &["training_parameters.micro_batch_size=2"],
    ] {
        let found = numbers(&run(sets));
        for (step, (a, b)) in reference.iter().zip(&found).enumerate() {
            let tolerance = if step == 0 { 1e-6 } else { 1e-5 };
            close(a.0, b.0, tolerance, &format!("{sets:?}: loss of step {}", step + 1));
            close(a.1, b.1, tolerance, &format!("{sets:?}: norm of step {}", step + 1));
        }
    }
}

#[test]
fn evaluation_drops_nothing() {
    let before = "training_parameters.num_sanity_val_steps=1";
    let with = run(&[before]);
    let without = run(&[before, "model.dropout=0"]);
    assert_eq!(with.validations[0].loss, without.validations[0].loss);
    assert_ne!(with.steps[0].loss, without.steps[0].loss);
}

#[test]
fn a_continued_run_drops_what_the_whole_one_drops() {
    let folder = tempfile::tempdir().unwrap();
    let save = ["checkpoint.enable=true"];
    Run::new(folder.path(), GPT2).with(&save).stopping_after(2).go().unwrap();
    let (_, continued) = Run::new(folder.path(), GPT2).with(&save).go().unwrap();
    assert_eq!(numbers(&continued), numbers(&run(&[]))[2..]);
}

#[test]
fn a_probability_of_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let refused = Run::new(folder.path(), GPT2).with(&["model.dropout=1"]).go().unwrap_err();
    assert!(refused.contains("`dropout` is 1 but must be at least 0 and below 1"), "{refused}");
}
