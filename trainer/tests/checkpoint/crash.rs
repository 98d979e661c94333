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

/// Ways to damage a checkpoint that its files' names and lengths show.
fn damage(folder: &Path, how: &str) {
    match how {
        "no manifest" => fs::remove_file(folder.join("manifest.json")).unwrap(),
        "half a manifest" => truncate(&folder.join("manifest.json"), 200),
        "half a shard" => truncate(&folder.join("rank-00000.safetensors"), 40),
        "no shard" => fs::remove_file(folder.join("rank-00003.safetensors")).unwrap(),
        other => unreachable!("{other}"),
    }
}

#[test]
fn retention_counts_whole_checkpoints_only() {
    for how in ["no manifest", "half a manifest", "half a shard", "no shard"] {
        let directory = tempfile::tempdir().unwrap();
        let store = store_with(directory.path(), &[10, 20, 30, 40]);
        damage(&store.root().join("step-00000030"), how);
        assert_eq!(store.retain(2, 40).unwrap(), [10], "{how}");
        assert!(store.root().join("step-00000030").exists(), "{how}");
        store.open(20).unwrap().verify().unwrap();
        // The last whole one stays whatever else there is.
        damage(&store.root().join("step-00000040"), how);
        assert!(store.retain(1, 40).unwrap().is_empty(), "{how}");
        store.open(20).unwrap();
    }
}

#[test]
fn what_was_set_aside_neither_counts_nor_goes() {
    let directory = tempfile::tempdir().unwrap();
    let store = store_with(directory.path(), &[10, 20, 30, 40]);
    let aside =
        [store.set_aside_damaged(40).unwrap(), store.set_aside_after(20).unwrap().remove(0)];
    save(&store, 30, 4, &[8, 6], &quarters());
    assert_eq!(store.retain(2, 30).unwrap(), [10]);
    assert_eq!(store.list().unwrap(), [20, 30]);
    assert!(aside.iter().all(|path| path.join("manifest.json").exists()));
}

#[test]
fn setting_aside_goes_on_where_it_was_cut_off() {
    let directory = tempfile::tempdir().unwrap();
    let store = store_with(directory.path(), &[1, 2, 3, 4]);
    // Older ones go first, so the newest is still there to continue from.
    let first = store.root().join("step-00000002");
    fs::rename(&first, first.with_added_extension("superseded-1")).unwrap();
    assert_eq!(store.scan(Check::Checksums).unwrap().newest.unwrap().step(), 4);
    let moved = store.set_aside_after(1).unwrap();
    let names: Vec<_> = moved.iter().map(|path| path.file_name().unwrap()).collect();
    assert_eq!(names, ["step-00000003.superseded-1", "step-00000004.superseded-1"]);
    assert_eq!(store.list().unwrap(), [1]);
}

#[test]
fn what_a_full_disk_left_is_cleared_before_space_is_needed() {
    let directory = tempfile::tempdir().unwrap();
    let store = store_with(directory.path(), &[1]);
    let root = store.root();
    fs::create_dir(root.join(".step-00000002.partial")).unwrap();
    fs::write(root.join(".step-00000002.partial/rank-00000.safetensors"), [0; 99]).unwrap();
    fs::create_dir(root.join(".step-00000000.removing")).unwrap();
    // Names of ours that are no folders.
    fs::write(root.join(".step-00000003.partial"), "").unwrap();
    fs::write(root.join(".probe-4711"), "pro").unwrap();
    fs::write(root.join(".nfs0001"), "theirs").unwrap();
    store.prepare().unwrap();
    let mut names: Vec<_> =
        fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, [".nfs0001", "step-00000001"]);
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
    store.prepare().unwrap();
    assert_eq!(fs::read_dir(store.root()).unwrap().count(), 0);
}

#[test]
fn a_directory_that_cannot_hold_checkpoints_is_found_out_early() {
    let directory = tempfile::tempdir().unwrap();
    // A file in the way refuses every user, the superuser included; permissions would not.
    fs::write(directory.path().join("file"), "").unwrap();
    let error = CheckpointStore::new(directory.path().join("file/checkpoints")).prepare();
    let error = error.unwrap_err();
    assert!(matches!(error, CheckpointError::NotWritable { .. }));
    assert!(explain(&error).contains("is not writable: "), "{}", explain(&error));
}
