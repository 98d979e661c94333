//! The same run on different meshes gives the same numbers.

mod support;

use support::{Run, TINY, close};

/// Relative difference allowed between meshes, f32.
const STEP: f64 = 1e-6;

fn losses(sets: &[&str]) -> Vec<(f64, f64)> {
    let folder = tempfile::tempdir().unwrap();
    let (_, seen) = Run::new(folder.path(), TINY).with(sets).go().unwrap();
    seen.steps.iter().map(|step| (step.loss, step.grad_norm)).collect()
}

#[track_caller]
fn check_equal(reference: &[(f64, f64)], other: &[(f64, f64)], what: &str) {
    assert_eq!(reference.len(), other.len(), "{what}");
    for (step, (a, b)) in reference.iter().zip(other).enumerate() {
        close(a.0, b.0, STEP, &format!("{what}: loss of step {}", step + 1));
        close(a.1, b.1, STEP, &format!("{what}: gradient norm of step {}", step + 1));
    }
}

#[test]
fn replicas_give_the_single_rank_run_over_twenty_steps() {
    let steps = "training_parameters.steps=20";
    for optimizer in ["optimizer.name=adamw", "optimizer.name=sgd"] {
        let reference = losses(&[steps, optimizer]);
        assert!(reference[19].0 < reference[0].0, "the loss falls: {reference:?}");
        for world_size in [2, 4] {
            let world = format!("device_parameters.world_size={world_size}");
            let ddp = losses(&[steps, optimizer, &world, "device_parameters.preset=ddp"]);
            check_equal(&reference, &ddp, &format!("{optimizer} on {world_size} ranks"));
        }
    }
}

#[test]
fn accumulation_gives_the_same_numbers_as_one_large_batch() {
    let reference = losses(&[]);
    for sets in [
        vec!["training_parameters.micro_batch_size=2"],
        vec!["training_parameters.gradient_accumulation_steps=8"],
        vec![
            "training_parameters.micro_batch_size=1",
            "device_parameters.preset=ddp",
            "device_parameters.world_size=2",
        ],
    ] {
        check_equal(&reference, &losses(&sets), &sets.join(", "));
    }
}

#[test]
fn masked_labels_weigh_the_same_on_every_mesh() {
    let folder = tempfile::tempdir().unwrap();
    let text: String = (0..400).map(|i| format!("document {i} says {}\n", i * i)).collect();
    for (i, part) in text.as_bytes().chunks(97).enumerate() {
        std::fs::write(folder.path().join(format!("{i:03}.txt")), part).unwrap();
    }
    let files = format!("data.files=['{}/*.txt']", folder.path().display());
    let data =
        ["data.source=text", &files, "data.mask_document_boundaries=true", "model.vocab_size=257"];
    let toml = TINY.replace("vocab_size = 96\nnum_sequences = 64", "tokenizer = \"byte\"");
    let run = |more: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        let (_, seen) = Run::new(folder.path(), &toml).with(&data).with(more).go().unwrap();
        seen.steps
    };
    let reference = run(&[]);
    assert!(reference.iter().any(|step| step.tokens < 8 * 16), "some labels are masked");
    let ranks = run(&["device_parameters.preset=ddp", "device_parameters.world_size=4"]);
    for (a, b) in reference.iter().zip(&ranks) {
        assert_eq!(a.tokens, b.tokens);
        close(a.loss, b.loss, STEP, "loss");
        close(a.grad_norm, b.grad_norm, STEP, "gradient norm");
    }
}
