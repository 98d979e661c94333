//! Tensors whose elements name their position, and checkpoints made of them.

use std::path::Path;

use burn::tensor::TensorData;
use dream_trainer::checkpoint::{Block, Checkpoint, CheckpointStore, RunState, Shard};
use serde_json::json;
use xxhash_rust::xxh3::xxh3_64;

/// Block `block` of the tensor of shape `shape` whose element at flat position i is i.
pub(crate) fn counted(shape: &[usize], block: &Block) -> TensorData {
    let num_elements: usize = block.shape.iter().product();
    let element = |nth: usize| {
        let (mut rest, mut position, mut stride) = (nth, 0, 1);
        for dim in (0..shape.len()).rev() {
            position += (block.offset[dim] + rest % block.shape[dim]) * stride;
            rest /= block.shape[dim];
            stride *= shape[dim];
        }
        position as f32
    };
    TensorData::new((0..num_elements).map(element).collect::<Vec<f32>>(), block.shape.clone())
}

pub(crate) fn shard(shape: &[usize], block: &Block) -> Shard {
    Shard {
        global_shape: shape.to_vec(),
        offset: block.offset.clone(),
        data: counted(shape, block),
    }
}

pub(crate) fn run_state(step: u64) -> RunState {
    RunState {
        mesh: json!({"dp_shard": 4}),
        config: json!({"run": {"seed": 7}}),
        state: json!({"step": step, "tokens": u64::MAX, "loss": 0.1_f64 + 0.2}),
    }
}

/// Saves `key` split into `blocks`, dealt out to `world_size` ranks in turn.
pub(crate) fn save(
    store: &CheckpointStore,
    step: u64,
    world_size: usize,
    shape: &[usize],
    blocks: &[Block],
) -> Checkpoint {
    let begun = store.begin(step).unwrap();
    let files = (0..world_size).map(|rank| {
        let mine = blocks.iter().skip(rank).step_by(world_size);
        let shards = mine.map(|block| ("model/w".to_owned(), shard(shape, block)));
        store.join(step).write_rank(rank, shards).unwrap()
    });
    let files = files.collect();
    begun.commit(run_state(step), files).unwrap()
}

/// The rows of an `[8, 6]` tensor over four ranks.
pub(crate) fn quarters() -> Vec<Block> {
    (0..4).map(|rank| Block::new([rank * 2, 0], [2, 6])).collect()
}

/// A store with one checkpoint per step, written by four ranks.
pub(crate) fn store_with(root: &Path, steps: &[u64]) -> CheckpointStore {
    let store = CheckpointStore::new(root.join("checkpoints"));
    for &step in steps {
        save(&store, step, 4, &[8, 6], &quarters());
    }
    store
}

/// The explanation of an error, all causes included.
pub(crate) fn explain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Gives the text of a manifest the checksum that it needs to be believed.
pub(crate) fn sign(text: &str) -> String {
    let key = "\"xxh3\":\"";
    let (head, tail) = text.split_once(key).unwrap();
    let (head, tail) = (format!("{head}{key}"), &tail[16..]);
    format!("{head}{:016x}{tail}", xxh3_64(format!("{head}{tail}").as_bytes()))
}
