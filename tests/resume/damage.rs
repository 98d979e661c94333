//! Runs whose newest checkpoint is damaged: it is set aside, the newest whole one is used, and
//! training gives the numbers and the files that were lost.

use std::fs;
use std::path::Path;

use crate::branches::{checkpoints, names};
use crate::support::{Run, TINY};

const EVERY_2: [&str; 4] = [
    "checkpoint.enable=true",
    "checkpoint.keep_latest=0",
    "checkpoint.every_n_steps=2",
    "metrics.jsonl=true",
];

fn run<'a>(folder: &'a Path, sets: &[&str]) -> Run<'a> {
    Run::new(folder, TINY).with(&EVERY_2).with(sets)
}

fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// The tensor file of the last rank that wrote one.
fn last_shard(checkpoint: &Path) -> std::path::PathBuf {
    let files = fs::read_dir(checkpoint).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|end| end == "safetensors")).max().unwrap()
}

fn damage(checkpoint: &Path, how: &str) {
    let manifest = checkpoint.join("manifest.json");
    match how {
        "no manifest" => fs::remove_file(manifest).unwrap(),
        "another digit" => edit(&manifest, |bytes| {
            let text = String::from_utf8(bytes.clone()).unwrap();
            let at = text.find("\"total_tokens\":").unwrap() + "\"total_tokens\":".len();
            bytes[at] ^= 1;
        }),
        "half a shard" => edit(&last_shard(checkpoint), |bytes| bytes.truncate(bytes.len() / 2)),
        "no shard" => fs::remove_file(last_shard(checkpoint)).unwrap(),
        "a flipped bit" => edit(&last_shard(checkpoint), |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        }),
        other => unreachable!("{other}"),
    }
}

/// The tensors of a checkpoint, by file.
fn tensors(checkpoint: &Path) -> Vec<(std::ffi::OsString, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(checkpoint)
        .unwrap()
        .map(Result::unwrap)
        .filter(|entry| entry.path().extension().is_some_and(|end| end == "safetensors"))
        .map(|entry| (entry.file_name(), fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

const DAMAGES: [&str; 5] =
    ["no manifest", "another digit", "half a shard", "no shard", "a flipped bit"];

#[test]
fn the_newest_whole_checkpoint_is_used_and_the_damaged_one_saved_anew() {
    let fsdp = ["device_parameters.preset=fsdp", "device_parameters.world_size=2"];
    let ddp = ["device_parameters.preset=ddp", "device_parameters.world_size=2"];
    let rows: [(&[&str], &[&str]); 3] =
        [(&[], &DAMAGES), (&fsdp, &DAMAGES), (&ddp, &["a flipped bit"])];
    for (mesh, damages) in rows {
        for how in damages {
            let folder = tempfile::tempdir().unwrap();
            let (_, before) = run(folder.path(), mesh).go().unwrap();
            let newest = checkpoints(folder.path()).join("step-00000006");
            let saved = tensors(&newest);
            damage(&newest, how);
            let sets = ["checkpoint.keep_latest=2"];
            let (outcome, after) = run(folder.path(), mesh).with(&sets).go().unwrap();
            assert_eq!((outcome.step, after.steps.len()), (6, 2), "{how}");
            for (a, b) in after.steps.iter().zip(&before.steps[4..]) {
                assert_eq!((a.step, a.loss.to_bits()), (b.step, b.loss.to_bits()), "{how}");
            }
            assert_eq!(tensors(&newest), saved, "{how}");
            // The damaged one counts for nothing and stays where it was put.
            assert_eq!(names(folder.path()), ["4", "6", "6.damaged-1"], "{how}");
        }
    }
}

#[test]
fn a_damaged_checkpoint_that_was_asked_for_is_an_error_with_the_cause() {
    let fsdp = ["device_parameters.preset=fsdp", "device_parameters.world_size=2"];
    let rows = [
        ("no manifest", "holds no `manifest.json`"),
        ("another digit", "manifest.json` has checksum "),
        ("half a shard", "bytes instead of "),
        ("no shard", "rank-00001.safetensors` is missing"),
        ("a flipped bit", "rank-00001.safetensors` has checksum "),
    ];
    for (how, cause) in rows {
        let folder = tempfile::tempdir().unwrap();
        run(folder.path(), &fsdp).go().unwrap();
        damage(&checkpoints(folder.path()).join("step-00000004"), how);
        let asked = ["checkpoint.resume_step=4"];
        let error = run(folder.path(), &fsdp).with(&asked).go().unwrap_err();
        assert!(error.contains(cause), "{how}: {error}");
        assert_eq!(names(folder.path()), ["2", "4", "6"], "{how}");
    }
}

#[test]
fn nothing_whole_is_told_and_must_refuses_it() {
    for how in DAMAGES {
        let folder = tempfile::tempdir().unwrap();
        run(folder.path(), &["training_parameters.steps=2"]).go().unwrap();
        damage(&checkpoints(folder.path()).join("step-00000002"), how);
        let error = run(folder.path(), &["checkpoint.resume=must"]).go().unwrap_err();
        assert!(error.contains("holds no complete checkpoint; step 2: "), "{how}: {error}");
        assert_eq!(names(folder.path()), ["2"], "{how}");
        let (_, seen) = run(folder.path(), &["training_parameters.steps=2"]).go().unwrap();
        assert_eq!(seen.steps[0].step, 1, "{how}");
        assert_eq!(names(folder.path()), ["2", "2.damaged-1"], "{how}");
    }
}

#[test]
fn several_damaged_ones_are_passed_over_one_by_one() {
    let folder = tempfile::tempdir().unwrap();
    let fsdp = ["device_parameters.preset=fsdp", "device_parameters.world_size=2"];
    run(folder.path(), &fsdp).go().unwrap();
    damage(&checkpoints(folder.path()).join("step-00000006"), "a flipped bit");
    damage(&checkpoints(folder.path()).join("step-00000004"), "a flipped bit");
    let (_, seen) = run(folder.path(), &fsdp).go().unwrap();
    assert_eq!(seen.steps[0].step, 3);
    assert_eq!(names(folder.path()), ["2", "4", "4.damaged-1", "6", "6.damaged-1"]);
}

#[test]
fn a_damaged_branch_falls_back_within_it_and_then_to_its_beginning() {
    let folder = tempfile::tempdir().unwrap();
    run(folder.path(), &[]).go().unwrap();
    let branch = ["checkpoint.resume_step=2", "optimizer.lr=1e-3"];
    run(folder.path(), &branch).go().unwrap();
    damage(&checkpoints(folder.path()).join("step-00000006"), "a flipped bit");
    let (_, seen) = run(folder.path(), &branch).go().unwrap();
    assert_eq!(seen.steps[0].step, 5);
    damage(&checkpoints(folder.path()).join("step-00000006"), "a flipped bit");
    damage(&checkpoints(folder.path()).join("step-00000004"), "no manifest");
    let (_, seen) = run(folder.path(), &branch).go().unwrap();
    assert_eq!(seen.steps[0].step, 3);
}

#[test]
fn a_full_disk_and_foreign_files_leave_no_trace() {
    let folder = tempfile::tempdir().unwrap();
    run(folder.path(), &["training_parameters.steps=4"]).go().unwrap();
    let root = checkpoints(folder.path());
    fs::create_dir(root.join(".step-00000006.partial")).unwrap();
    fs::write(root.join(".step-00000006.partial/rank-00000.safetensors"), "half").unwrap();
    fs::create_dir(root.join(".step-00000000.removing")).unwrap();
    fs::write(root.join(".probe-1"), "").unwrap();
    fs::write(root.join("step-00000009"), "a file of somebody").unwrap();
    fs::write(root.join("notes.txt"), "a file of somebody").unwrap();
    let (_, seen) = run(folder.path(), &[]).go().unwrap();
    assert_eq!(seen.steps[0].step, 5);
    assert_eq!(names(folder.path()), ["notes.txt", "2", "4", "6", "9.damaged-1"]);
}
