//! Manifests beside whole tensor files: refused, or tensors that have the saved values.
#![no_main]

use std::fs;
use std::sync::OnceLock;

use burn::tensor::TensorData;
use dream_train_fuzz::folder;
use dream_trainer::checkpoint::{Check, CheckpointStore, RunState, Shard};
use libfuzzer_sys::fuzz_target;
use xxhash_rust::xxh3::xxh3_64;

/// A store with one checkpoint of one tensor.
fn store() -> &'static CheckpointStore {
    static STORE: OnceLock<CheckpointStore> = OnceLock::new();
    STORE.get_or_init(|| {
        let store = CheckpointStore::new(folder().join("checkpoints"));
        let begun = store.begin(1).expect("an empty store");
        let values: Vec<f32> = (0..48_u8).map(f32::from).collect();
        let shard = Shard {
            global_shape: vec![8, 6],
            offset: vec![0, 0],
            data: TensorData::new(values, [8, 6]),
        };
        let written = store.join(1).write_rank(0, [("model/w".to_owned(), shard)]);
        let files = vec![written.expect("the folder is writable")];
        begun.commit(RunState::default(), files).expect("the folder is writable");
        store
    })
}

/// Puts the checksum of the rest where a text has one, so that what lies behind it is reached too.
fn sealed(text: &[u8]) -> Vec<u8> {
    const KEY: &[u8] = br#""xxh3":""#;
    let mut text = text.to_vec();
    let key = text.windows(KEY.len()).position(|window| window == KEY);
    let Some(start) = key.map(|at| at + KEY.len()) else { return text };
    let end = start + 16;
    if end <= text.len() {
        let sum = xxh3_64(&[&text[..start], &text[end..]].concat());
        text[start..end].copy_from_slice(format!("{sum:016x}").as_bytes());
    }
    text
}

fuzz_target!(|data: &[u8]| {
    let store = store();
    let path = store.root().join("step-00000001/manifest.json");
    fs::write(&path, sealed(data)).expect("the folder is writable");
    drop(store.scan(Check::Checksums));
    let Ok(checkpoint) = store.open(1) else { return };
    drop(checkpoint.verify());
    let keys: Vec<String> = checkpoint.keys().map(String::from).collect();
    for key in keys {
        drop(checkpoint.read(&key));
    }
});
