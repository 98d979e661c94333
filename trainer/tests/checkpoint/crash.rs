//! A process killed at any moment of a save: the next start finds the previous step. And what is
//! removed, and when.

use std::fs;
use std::path::Path;

use dream_trainer::checkpoint::{Block, Check, CheckpointError, CheckpointStore};

use crate::fixture::{counted, explain, quarters, run_state, save, shard, store_with};

/// States in which a killed save of step 120 leaves the directory, made from a finished one.
fn interrupt(stage: &str, root: &Path) {
    let (complete, partial) = (root.join("step-00000120"), root.join(".step-00000120.partial"));
    let manifest = complete.join("manifest.json");
    match stage {
        "folder made" => {
            fs::remove_dir_all(&complete).unwrap();
            fs::create_dir(partial).unwrap();
        }
        "half a shard" => {
            fs::remove_file(manifest).unwrap();
            truncate(&complete.join("rank-00002.safetensors"), 20);
            fs::rename(complete, partial).unwrap();
        }
        "shards but no manifest" => {
            fs::remove_file(manifest).unwrap();
            fs::rename(complete, partial).unwrap();
        }
        "half a manifest" => {
            truncate(&manifest, 100);
            fs::rename(complete, partial).unwrap();
        }
        "not renamed" => fs::rename(complete, partial).unwrap(),
        // A file system that lost data behind the rename.
        "renamed without manifest" => fs::remove_file(manifest).unwrap(),
        "renamed with an empty manifest" => truncate(&manifest, 0),
        "renamed with a truncated shard" => {
            truncate(&complete.join("rank-00001.safetensors"), 40);
        }
        "renamed without a shard" => {
            fs::remove_file(complete.join("rank-00003.safetensors")).unwrap();
        }
        other => unreachable!("{other}"),
    }
}

fn truncate(path: &Path, bytes: u64) {
    fs::File::options().write(true).open(path).unwrap().set_len(bytes).unwrap();
}

#[test]
fn a_killed_save_falls_back_to_the_previous_step_and_can_be_repeated() {
    let stages = [
        ("folder made", 0),
        ("half a shard", 0),
        ("shards but no manifest", 0),
        ("half a manifest", 0),
        ("not renamed", 0),
        ("renamed without manifest", 1),
        ("renamed with an empty manifest", 1),
        ("renamed with a truncated shard", 1),
        ("renamed without a shard", 1),
    ];
    for (stage, num_skipped) in stages {
        let directory = tempfile::tempdir().unwrap();
        let store = store_with(directory.path(), &[100, 120]);
        interrupt(stage, store.root());
        let scan = store.scan(Check::Files).unwrap();
        let newest = scan.newest.unwrap();
        assert_eq!(newest.step(), 100, "{stage}");
        assert_eq!(scan.skipped.len(), num_skipped, "{stage}");
        let whole = Block::whole(&[8, 6]);
        assert_eq!(newest.read("model/w").unwrap(), counted(&[8, 6], &whole), "{stage}");
        assert_eq!(store.set_aside_after(100).unwrap().len(), num_skipped, "{stage}");
        save(&store, 120, 4, &[8, 6], &quarters());
        assert_eq!(store.scan(Check::Checksums).unwrap().newest.unwrap().step(), 120, "{stage}");
        let hidden = fs::read_dir(store.root()).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(hidden.filter(|n| n.to_string_lossy().starts_with('.')).count(), 0, "{stage}");
    }
}

#[test]
fn nothing_counts_before_the_commit() {
    let directory = tempfile::tempdir().unwrap();
    let store = store_with(directory.path(), &[1]);
    let begun = store.begin(2).unwrap();
    begun.write_rank(0, [("w".to_owned(), shard(&[4], &Block::whole(&[4])))]).unwrap();
    drop(begun);
    assert_eq!(store.list().unwrap(), [1]);
    assert!(!store.contains(2));
}

#[test]
fn a_complete_checkpoint_is_never_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let store = store_with(directory.path(), &[5]);
    let error = store.begin(5).unwrap_err();
    assert!(matches!(error, CheckpointError::Exists { .. }), "{error}");
    let late = store.begin(6).unwrap();
    save_beside(&store, 6);
    assert!(matches!(late.commit(run_state(6), vec![]), Err(CheckpointError::Exists { .. })));
}

/// Puts a folder where the commit of `step` will want to be.
fn save_beside(store: &CheckpointStore, step: u64) {
    fs::create_dir(store.root().join(format!("step-{step:08}"))).unwrap();
}

#[test]
fn setting_aside_keeps_every_byte() {
    let directory = tempfile::tempdir().unwrap();
    let store = store_with(directory.path(), &[1, 2, 3]);
    let moved = store.set_aside_after(1).unwrap();
    assert_eq!(store.list().unwrap(), [1]);
    assert!(moved.iter().all(|path| path.join("manifest.json").exists()));
    save(&store, 3, 4, &[8, 6], &quarters());
    assert!(store.set_aside_after(1).unwrap()[0].ends_with("step-00000003.superseded-2"));
}

#[test]
fn retention_keeps_the_newest_and_the_one_just_written() {
    let rows: [(usize, u64, &[u64]); 5] = [
        (0, 40, &[10, 20, 30, 40]),
        (1, 40, &[40]),
        (3, 40, &[20, 30, 40]),
        (9, 40, &[10, 20, 30, 40]),
        (2, 10, &[10, 30, 40]),
    ];
    for (keep_latest, just_saved, expected) in rows {
        let directory = tempfile::tempdir().unwrap();
        let store = store_with(directory.path(), &[10, 20, 30, 40]);
        let removed = store.retain(keep_latest, just_saved).unwrap();
        assert_eq!(store.list().unwrap(), expected, "keep {keep_latest}");
        assert_eq!(removed.len() + expected.len(), 4);
        assert_eq!(fs::read_dir(store.root()).unwrap().count(), expected.len());
    }
}

#[test]
fn retention_leaves_what_is_no_checkpoint_alone() {
    let directory = tempfile::tempdir().unwrap();
    let store = store_with(directory.path(), &[1, 2]);
    for name in ["step-1", "step-notes", ".step-cache", "step-00000001.superseded-1"] {
        fs::create_dir(store.root().join(name)).unwrap();
    }
    store.retain(1, 2).unwrap();
    store.begin(3).unwrap();
    assert_eq!(store.list().unwrap(), [2]);
    assert_eq!(fs::read_dir(store.root()).unwrap().count(), 6);
}

#[test]
fn a_missing_step_names_those_there_are() {
    let directory = tempfile::tempdir().unwrap();
    let error = store_with(directory.path(), &[10, 20]).open(15).unwrap_err();
    assert!(explain(&error).starts_with("step 15 has no checkpoint in `"));
    assert!(explain(&error).ends_with("which holds steps [10, 20]"));
}

#[test]
fn a_directory_not_yet_made_is_empty() {
    let directory = tempfile::tempdir().unwrap();
    let store = CheckpointStore::new(directory.path().join("not/yet"));
    assert!(store.list().unwrap().is_empty());
    assert!(store.scan(Check::Checksums).unwrap().newest.is_none());
    store.check_writable().unwrap();
    assert_eq!(fs::read_dir(store.root()).unwrap().count(), 0);
}

#[test]
fn a_directory_that_cannot_hold_checkpoints_is_found_out_early() {
    let directory = tempfile::tempdir().unwrap();
    // A file in the way refuses every user, the superuser included; permissions would not.
    fs::write(directory.path().join("file"), "").unwrap();
    let error = CheckpointStore::new(directory.path().join("file/checkpoints")).check_writable();
    let error = error.unwrap_err();
    assert!(matches!(error, CheckpointError::NotWritable { .. }));
    assert!(explain(&error).contains("is not writable: "), "{}", explain(&error));
}
