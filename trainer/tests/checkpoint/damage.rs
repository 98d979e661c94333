//! Damage is found and named: bytes flipped, files cut, manifests that disagree with their files,
//! wrong saves.

use std::fs;
use std::path::Path;

use burn::tensor::TensorData;
use dream_trainer::checkpoint::{Block, Check, CheckpointError, CheckpointStore, RunState, Shard};
use serde_json::{Value, json};

use crate::fixture::{counted, explain, quarters, shard, sign, store_with};

#[test]
fn one_flipped_byte_is_caught_before_it_is_handed_out() {
    let directory = tempfile::tempdir().unwrap();
    let store = store_with(directory.path(), &[1, 2]);
    let path = store.root().join("step-00000002/rank-00001.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();

    let checkpoint = store.open(2).unwrap();
    let error = checkpoint.read_block("model/w", &quarters()[1]).unwrap_err();
    assert!(matches!(error, CheckpointError::Checksum { .. }), "{error}");
    assert!(error.to_string().contains("rank-00001.safetensors"), "{error}");
    assert!(checkpoint.read_block("model/w", &quarters()[2]).is_ok());
    assert!(checkpoint.verify().is_err());
    assert_eq!(store.scan(Check::Files).unwrap().newest.unwrap().step(), 2);
    let scan = store.scan(Check::Checksums).unwrap();
    assert_eq!(scan.newest.unwrap().step(), 1);
    assert!(matches!(scan.skipped[0].reason, CheckpointError::Checksum { .. }));
}

fn edit(folder: &Path, change: impl FnOnce(&mut Value)) {
    let path = folder.join("manifest.json");
    let mut manifest = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut manifest);
    fs::write(path, sign(&manifest.to_string())).unwrap();
}

#[test]
fn every_flipped_bit_of_a_manifest_is_damage() {
    let directory = tempfile::tempdir().unwrap();
    let store = store_with(directory.path(), &[1]);
    let path = store.root().join("step-00000001/manifest.json");
    let sound = fs::read(&path).unwrap();
    for at in 0..sound.len() {
        for bit in [1, 4, 128] {
            let mut bytes = sound.clone();
            bytes[at] ^= bit;
            fs::write(&path, bytes).unwrap();
            let error = store.open(1).unwrap_err();
            assert!(error.is_damage(), "byte {at}, bit {bit}: {}", explain(&error));
        }
    }
    fs::write(&path, sound).unwrap();
    store.open(1).unwrap();
}

/// What version 1 wrote, which had no checksum of its own.
const VERSION_1: &str = r#"{"format":"dream-train-checkpoint","version":1,"step":12,"run":{"mesh":{"tp":1},"config":{},"state":{"tokens":9}},"files":{"rank-00000.safetensors":{"bytes":152,"xxh3":"12478c9a4cb09dab"}},"tensors":{"model/w":{"dtype":"f32","shape":[2,2],"blocks":[{"file":"rank-00000.safetensors","name":"model/w","block":{"offset":[0,0],"shape":[1,2]}},{"file":"rank-00000.safetensors","name":"model/w#1","block":{"offset":[1,0],"shape":[1,2]}}]}}}"#;

#[test]
fn a_checkpoint_of_version_1_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let store = CheckpointStore::new(directory.path());
    let save = store.begin(12).unwrap();
    let blocks = [Block::new([0, 0], [1, 2]), Block::new([1, 0], [1, 2])];
    let pieces = blocks.map(|block| ("model/w".to_owned(), shard(&[2, 2], &block)));
    let file = save.write_rank(0, pieces).unwrap();
    let path = save.commit(RunState::default(), vec![file]).unwrap().path().join("manifest.json");
    fs::write(&path, VERSION_1).unwrap();
    let checkpoint = store.open(12).unwrap();
    checkpoint.verify().unwrap();
    assert_eq!(checkpoint.read("model/w").unwrap(), counted(&[2, 2], &Block::whole(&[2, 2])));
    assert_eq!(checkpoint.manifest().run.state["tokens"], 9);
}

/// Puts something that is no checkpoint, or half of one, in the place of step 9.
fn spoil(kind: &str, root: &Path) {
    let folder = root.join("step-00000009");
    let (manifest, shard) = (folder.join("manifest.json"), folder.join("rank-00001.safetensors"));
    match kind {
        "a file" => {
            fs::remove_dir_all(&folder).unwrap();
            fs::write(folder, "notes").unwrap();
        }
        "an empty folder" => {
            fs::remove_dir_all(&folder).unwrap();
            fs::create_dir(folder).unwrap();
        }
        "a folder for a manifest" => {
            fs::remove_file(&manifest).unwrap();
            fs::create_dir(manifest).unwrap();
        }
        "a folder for a shard" => {
            fs::remove_file(&shard).unwrap();
            fs::create_dir(shard).unwrap();
        }
        "a huge manifest" => {
            fs::File::options().write(true).open(manifest).unwrap().set_len(1 << 31).unwrap();
        }
        #[cfg(unix)]
        "a link to nowhere" => {
            fs::remove_dir_all(&folder).unwrap();
            std::os::unix::fs::symlink("nowhere", folder).unwrap();
        }
        #[cfg(unix)]
        "a pipe for a manifest" => {
            fs::remove_file(&manifest).unwrap();
            let made = std::process::Command::new("mkfifo").arg(manifest).status().unwrap();
            assert!(made.success());
        }
        other => unreachable!("{other}"),
    }
}

#[test]
fn whatever_lies_there_never_blocks_and_is_set_aside() {
    let mut kinds = vec![
        "a file",
        "an empty folder",
        "a folder for a manifest",
        "a folder for a shard",
        "a huge manifest",
    ];
    if cfg!(unix) {
        kinds.extend(["a link to nowhere", "a pipe for a manifest"]);
    }
    for kind in kinds {
        let directory = tempfile::tempdir().unwrap();
        let store = store_with(directory.path(), &[8, 9]);
        spoil(kind, store.root());
        fs::write(store.root().join("notes.txt"), "").unwrap();
        fs::create_dir(store.root().join("step-latest")).unwrap();
        let scan = store.scan(Check::Checksums).unwrap();
        assert_eq!(scan.newest.unwrap().step(), 8, "{kind}");
        assert_eq!(scan.skipped.len(), 1, "{kind}");
        let aside = store.set_aside_damaged(9).unwrap();
        assert!(aside.ends_with("step-00000009.damaged-1"), "{kind}: {}", aside.display());
        assert!(aside.symlink_metadata().is_ok(), "{kind}");
        assert!(store.begin(9).is_ok(), "{kind}");
    }
}

#[test]
fn a_manifest_that_is_wrong_says_how() {
    type Change = fn(&mut Value);
    let rows: [(Change, &str); 12] = [
        (|m| m["version"] = json!(3), "has version 3 but this release reads up to 2"),
        (|m| m["format"] = json!("gguf"), "has format `gguf` instead of `dream-train-checkpoint`"),
        (|m| m["step"] = json!(9), "holds the manifest of step 9 instead of 1"),
        (|m| m["colour"] = json!("red"), "unknown field `colour`"),
        (|m| m["files"] = json!({}), "refers to file `rank-00000.safetensors`"),
        (|m| m["files"]["../x"] = json!({"bytes": 1, "xxh3": ""}), "refers to file `../x`"),
        (|m| m["tensors"]["model/w"]["shape"] = json!([9, 6]), "blocks hold 48 of the 54 elements"),
        (|m| m["tensors"]["model/w"]["shape"] = json!([u64::MAX, 6]), "has too many elements"),
        (|m| m["tensors"]["model/w"]["dtype"] = json!("f8"), "has element type `f8`"),
        (
            |m| m["tensors"]["model/w"]["dtype"] = json!("i32"),
            "is i32[2, 6] in the manifest but F32[2, 6] in",
        ),
        (|m| m["tensors"]["model/w"]["blocks"][0]["name"] = json!("v"), "but absent (`v`) in"),
        (
            |m| m["tensors"]["model/w"]["blocks"][1]["block"]["offset"] = json!([1, 0]),
            "blocks [2, 6] at [0, 0] and [2, 6] at [1, 0] overlap",
        ),
    ];
    for (change, expected) in rows {
        let directory = tempfile::tempdir().unwrap();
        let store = store_with(directory.path(), &[1]);
        edit(&store.root().join("step-00000001"), change);
        let error = store.open(1).and_then(|checkpoint| checkpoint.read("model/w")).unwrap_err();
        assert!(explain(&error).contains(expected), "{} / {expected}", explain(&error));
    }
}

#[test]
fn a_checkpoint_of_a_newer_release_is_not_passed_over() {
    let directory = tempfile::tempdir().unwrap();
    let store = store_with(directory.path(), &[1, 2]);
    edit(&store.root().join("step-00000002"), |manifest| {
        let checksum = "0000000000000000";
        *manifest = json!({"format": "dream-train-checkpoint", "version": 7, "xxh3": checksum, "blobs": []});
    });
    assert!(matches!(store.scan(Check::Files), Err(CheckpointError::Version { found: 7, .. })));
    // Without its checksum it is as likely a damaged one of this release.
    let path = store.root().join("step-00000002/manifest.json");
    fs::write(path, r#"{"format": "dream-train-checkpoint", "version": 7}"#).unwrap();
    assert_eq!(store.scan(Check::Files).unwrap().newest.unwrap().step(), 1);
}

#[test]
fn ranks_that_share_the_files_find_every_damage_once() {
    for damaged in 0..4 {
        let directory = tempfile::tempdir().unwrap();
        let store = store_with(directory.path(), &[1]);
        let path = store.root().join(format!("step-00000001/rank-0000{damaged}.safetensors"));
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 16;
        fs::write(&path, bytes).unwrap();
        for world_size in 1..6 {
            let found = (0..world_size)
                .filter(|&rank| store.open(1).unwrap().verify_share(rank, world_size).is_err());
            assert_eq!(found.collect::<Vec<_>>(), [damaged % world_size]);
        }
    }
}

#[test]
fn a_save_that_is_not_whole_is_refused_at_the_commit() {
    let rows: [(&[(usize, Block)], &str); 4] = [
        (&[(0, Block { offset: vec![0, 0], shape: vec![4, 6] })], "blocks hold 24 of the 48"),
        (
            &[
                (0, Block { offset: vec![0, 0], shape: vec![8, 4] }),
                (1, Block { offset: vec![0, 3], shape: vec![8, 3] }),
            ],
            "blocks [8, 4] at [0, 0] and [8, 3] at [0, 3] overlap",
        ),
        (
            &[
                (0, Block { offset: vec![0, 0], shape: vec![8, 6] }),
                (1, Block { offset: vec![0, 0], shape: vec![8, 6] }),
            ],
            "overlap",
        ),
        (
            &[
                (0, Block { offset: vec![0, 0], shape: vec![4, 6] }),
                (0, Block { offset: vec![4, 0], shape: vec![4, 6] }),
            ],
            "rank 0 saved twice in one checkpoint",
        ),
    ];
    for (blocks, expected) in rows {
        let directory = tempfile::tempdir().unwrap();
        let store = CheckpointStore::new(directory.path());
        let save = store.begin(1).unwrap();
        let mut files = Vec::new();
        for (rank, block) in blocks {
            let shard = shard(&[8, 6], block);
            if files.len() > *rank {
                let mut again = save.write_rank(9, [("w".to_owned(), shard)]).unwrap();
                (again.rank, again.file) = (0, "rank-00000.safetensors".to_owned());
                files.push(again);
            } else {
                files.push(save.write_rank(*rank, [("w".to_owned(), shard)]).unwrap());
            }
        }
        let error = save.commit(RunState::default(), files).unwrap_err();
        assert!(explain(&error).contains(expected), "{} / {expected}", explain(&error));
        assert!(store.list().unwrap().is_empty());
    }
}

#[test]
fn ranks_that_disagree_on_a_tensor_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let save = CheckpointStore::new(directory.path()).begin(1).unwrap();
    let ints = Shard {
        global_shape: vec![4],
        offset: vec![2],
        data: TensorData::new(vec![1_i32, 2], [2]),
    };
    let floats = shard(&[4], &Block::new([0], [2]));
    let files = vec![
        save.write_rank(0, [("w".to_owned(), floats)]).unwrap(),
        save.write_rank(1, [("w".to_owned(), ints)]).unwrap(),
    ];
    let error = save.commit(RunState::default(), files).unwrap_err();
    assert_eq!(error.to_string(), "ranks disagree on tensor `w`: f32[4] and i32[4]");
}

#[test]
fn shards_that_cannot_be_saved_are_refused() {
    let outside = Shard { offset: vec![3], ..shard(&[4], &Block::new([0], [2])) };
    let unranked = Shard { offset: vec![], ..shard(&[4], &Block::new([0], [2])) };
    let good = || shard(&[4], &Block::new([0], [4]));
    let rows = [
        ("w", outside, "block [2] at [3] of `w` lies outside of its shape [4]"),
        ("w", unranked, "block [2] at [] of `w` lies outside of its shape [4]"),
        ("", good(), "`` is no tensor key"),
        ("a#b", good(), "`a#b` is no tensor key"),
        ("__metadata__", good(), "`__metadata__` is no tensor key"),
    ];
    for (key, shard, expected) in rows {
        let directory = tempfile::tempdir().unwrap();
        let save = CheckpointStore::new(directory.path()).begin(1).unwrap();
        let error = save.write_rank(0, [(key.to_owned(), shard)]).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn unknown_keys_and_blocks_outside_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let checkpoint = store_with(directory.path(), &[1]).open(1).unwrap();
    assert!(matches!(checkpoint.read("model/v"), Err(CheckpointError::UnknownKey { .. })));
    let rows =
        [Block::new([0, 1], [8, 6]), Block::new([usize::MAX, 0], [1, 1]), Block::new([0], [8])];
    for block in rows {
        let error = checkpoint.read_block("model/w", &block).unwrap_err();
        assert!(matches!(error, CheckpointError::OutOfBounds { .. }), "{error}");
    }
}

#[test]
fn a_checkpoint_of_another_model_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let checkpoint = store_with(directory.path(), &[1]).open(1).unwrap();
    checkpoint.check_keys("model/", ["model/w"]).unwrap();
    checkpoint.check_keys("optimizer/", []).unwrap();
    let error = checkpoint.check_keys("model/", ["model/v"]).unwrap_err().to_string();
    assert!(error.ends_with("missing `model/v`; unexpected `model/w`"), "{error}");
    let error = checkpoint.read_shard("model/w", &[8, 7], &quarters()[0]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "tensor `model/w` has shape [8, 6] in the checkpoint but [8, 7] in the run"
    );
    checkpoint.read_shard("model/w", &[8, 6], &quarters()[0]).unwrap();
}
