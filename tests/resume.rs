//! A run that was interrupted and continued is the uninterrupted run, bit for bit.
#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping it")]

#[allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]
mod support;

#[path = "resume/branches.rs"]
#[allow(unreachable_pub, reason = "the modules of this test use each other")]
mod branches;
#[path = "resume/damage.rs"]
mod damage;
#[path = "resume/epochs.rs"]
mod epochs;
#[path = "resume/same_run.rs"]
mod same_run;

use std::fs;
use std::path::Path;

use support::{Run, TINY};

const CHECKPOINTS: [&str; 4] = [
    "checkpoint.enable=true",
    "checkpoint.keep_latest=0",
    "metrics.jsonl=true",
    "lr_scheduler.name=cosine",
];

/// The parts of the metrics that do not depend on the clock.
fn numbers(folder: &Path) -> Vec<(u64, [String; 4])> {
    let path = folder.join("outputs/dream-train/default/run/metrics.jsonl");
    let text = fs::read_to_string(path).unwrap();
    let rows = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    rows.map(|row| {
        (
            row["step"].as_u64().unwrap(),
            ["loss", "grad_norm", "lr", "loss_scale"].map(|key| row[key].to_string()),
        )
    })
    .collect()
}

#[track_caller]
fn check_resume(mesh: &[&str], shuffle: bool) {
    let shuffle = format!("data.shuffle={shuffle}");
    let sets = [&CHECKPOINTS[..], mesh, &[&shuffle]].concat();
    let whole = tempfile::tempdir().unwrap();
    Run::new(whole.path(), TINY).with(&sets).go().unwrap();
    let expected = numbers(whole.path());
    assert_eq!(expected.len(), 6);
    for stop in 1..6 {
        let folder = tempfile::tempdir().unwrap();
        let (first, _) =
            Run::new(folder.path(), TINY).with(&sets).stopping_after(stop).go().unwrap();
        assert!(first.interrupted);
        assert_eq!(first.step, stop);
        let (second, _) = Run::new(folder.path(), TINY).with(&sets).go().unwrap();
        assert_eq!(second.step, 6);
        assert_eq!(numbers(folder.path()), expected, "interrupted after step {stop}");
    }
}

#[test]
fn one_rank_continues_bit_exactly_from_any_step() {
    check_resume(&[], true);
}

#[test]
fn replicas_continue_bit_exactly_from_any_step() {
    check_resume(&["device_parameters.preset=ddp", "device_parameters.world_size=2"], false);
}

#[test]
fn accumulation_and_momentum_continue_bit_exactly() {
    check_resume(
        &["optimizer.name=sgd", "optimizer.momentum=0.9", "training_parameters.micro_batch_size=2"],
        true,
    );
}

#[test]
fn half_precision_and_its_loss_scale_continue_bit_exactly() {
    let f16 = "device_parameters.param_dtype=f16";
    let fsdp = ["device_parameters.preset=fsdp", "device_parameters.world_size=2"];
    // The first steps overflow, and the scale grows again within the run.
    let scaler = [
        "device_parameters.grad_scaler.init_scale=1073741824.0",
        "device_parameters.grad_scaler.backoff_factor=0.0009765625",
        "device_parameters.grad_scaler.growth_interval=2",
    ];
    check_resume(&[&[f16], &fsdp[..], &scaler].concat(), true);
    check_resume(&["device_parameters.param_dtype=bf16"], true);
}

#[test]
fn orthogonalized_momentum_continues_bit_exactly() {
    let muon = ["optimizer.name=muon", "optimizer.lr=0.02", "device_parameters.preset=fsdp"];
    check_resume(&[&muon[..], &["device_parameters.world_size=2"]].concat(), true);
}

#[test]
fn a_checkpoint_continues_on_another_number_of_replicas() {
    let folder = tempfile::tempdir().unwrap();
    Run::new(folder.path(), TINY).with(&CHECKPOINTS).stopping_after(3).go().unwrap();
    let ddp = ["device_parameters.preset=ddp", "device_parameters.world_size=4"];
    let (outcome, seen) = Run::new(folder.path(), TINY).with(&CHECKPOINTS).with(&ddp).go().unwrap();
    assert_eq!(outcome.step, 6);
    let whole = tempfile::tempdir().unwrap();
    let (_, reference) =
        Run::new(whole.path(), TINY).with(&["lr_scheduler.name=cosine"]).go().unwrap();
    for (a, b) in seen.steps.iter().zip(&reference.steps[3..]) {
        support::close(a.loss, b.loss, support::tolerance::REPLICAS, "loss");
    }
}

#[test]
fn resume_modes_refuse_what_would_surprise() {
    let folder = tempfile::tempdir().unwrap();
    let must =
        Run::new(folder.path(), TINY).with(&CHECKPOINTS).with(&["checkpoint.resume=must"]).go();
    assert!(must.unwrap_err().contains("holds no complete checkpoint"));
    Run::new(folder.path(), TINY).with(&CHECKPOINTS).stopping_after(2).go().unwrap();
    let never =
        Run::new(folder.path(), TINY).with(&CHECKPOINTS).with(&["checkpoint.resume=never"]).go();
    assert!(never.unwrap_err().contains("already holds a checkpoint of step 2"));
}

#[test]
fn shards_continue_bit_exactly_and_load_on_other_meshes() {
    check_resume(&["device_parameters.preset=fsdp", "device_parameters.world_size=2"], true);
    check_resume(&["device_parameters.tensor_parallel=2", "device_parameters.world_size=2"], true);
    let folder = tempfile::tempdir().unwrap();
    let fsdp = ["device_parameters.preset=fsdp", "device_parameters.world_size=4"];
    Run::new(folder.path(), TINY).with(&CHECKPOINTS).with(&fsdp).stopping_after(3).go().unwrap();
    let tp = ["device_parameters.tensor_parallel=2", "device_parameters.world_size=2"];
    let (_, seen) = Run::new(folder.path(), TINY).with(&CHECKPOINTS).with(&tp).go().unwrap();
    let whole = tempfile::tempdir().unwrap();
    let (_, reference) =
        Run::new(whole.path(), TINY).with(&["lr_scheduler.name=cosine"]).go().unwrap();
    for (a, b) in seen.steps.iter().zip(&reference.steps[3..]) {
        support::close(
            a.loss,
            b.loss,
            support::tolerance::LATER_STEP,
            "loss after a checkpoint of another mesh",
        );
    }
}

#[test]
fn copies_of_key_value_heads_are_saved_once_and_load_on_other_meshes() {
    let model = ["model.num_kv_heads=2", "model.attention_bias=true"];
    let sets = [&CHECKPOINTS[..], &model].concat();
    let four = ["device_parameters.tensor_parallel=4", "device_parameters.world_size=4"];
    let one = ["device_parameters.world_size=1"];
    check_resume(&[&model[..], &four].concat(), true);
    let whole = tempfile::tempdir().unwrap();
    let (_, reference) = Run::new(whole.path(), TINY).with(&sets).go().unwrap();
    for (saved, loaded) in [(&four[..], &one[..]), (&one, &four)] {
        let folder = tempfile::tempdir().unwrap();
        Run::new(folder.path(), TINY).with(&sets).with(saved).stopping_after(3).go().unwrap();
        let (outcome, seen) = Run::new(folder.path(), TINY).with(&sets).with(loaded).go().unwrap();
        assert_eq!(outcome.step, 6);
        for (a, b) in seen.steps.iter().zip(&reference.steps[3..]) {
            let what = format!("after a checkpoint of {saved:?} on {loaded:?}, step {}", a.step);
            support::close(a.loss, b.loss, support::tolerance::LATER_STEP, &what);
            support::close(a.grad_norm, b.grad_norm, support::tolerance::LATER_STEP, &what);
        }
    }
}
