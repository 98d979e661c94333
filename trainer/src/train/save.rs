//! Saving and restoring the whole state of a run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::step::Owned;
use super::{Result, TrainError, WeightSource};
use crate::checkpoint::{Checkpoint, CheckpointError, RunState, Save, Shard};
use crate::nn::{self, ParameterEntry};

/// The small state of a run: counters and positions. Tensors are beside it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Progress {
    /// Optimizer steps done.
    pub(crate) step: u64,
    /// Labels that counted so far.
    pub(crate) total_tokens: u64,
    /// Steps whose update was dropped.
    pub(crate) skipped_steps: u64,
}

/// What the manifest keeps under `state`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SavedState {
    pub(crate) progress: Progress,
    pub(crate) data: Value,
    pub(crate) optimizers: BTreeMap<String, u64>,
    pub(crate) callbacks: BTreeMap<String, Value>,
}

/// Copies model and optimizer tensors to host memory, under their checkpoint keys.
pub(crate) fn snapshot<M: Module>(model: &M, optimizers: &[Owned]) -> Vec<(String, Shard)> {
    let mut shards = Vec::new();
    let mut shapes = BTreeMap::new();
    nn::for_each_value(model, |path, shape, value| {
        shapes.insert(path.to_owned(), shape.to_vec());
        shards.push((model_key(path), whole(value, shape)));
    });
    for Owned { optimizer, .. } in optimizers {
        for (slot, path, value) in optimizer.state() {
            shards.push((
                optimizer_key(optimizer.name(), slot, path),
                whole(value.clone(), &shapes[path]),
            ));
        }
    }
    shards
}

/// Writes and commits what the only saving rank holds.
pub(crate) fn write(
    save: Save,
    rank: usize,
    shards: Vec<(String, Shard)>,
    state: RunState,
) -> Result<PathBuf, CheckpointError> {
    let file = save.write_rank(rank, shards)?;
    Ok(save.commit(state, vec![file])?.path().to_path_buf())
}

fn whole(flat: Tensor<1>, shape: &[usize]) -> Shard {
    Shard::whole(reshape(flat.into_data(), shape.to_vec()))
}

/// Gives the same elements another shape, without a copy.
fn reshape(data: TensorData, shape: Vec<usize>) -> TensorData {
    let (bytes, _, dtype) = data.into_parts();
    TensorData::from_bytes(bytes, shape, dtype)
}

fn model_key(path: &str) -> String {
    format!("model/{path}")
}

fn optimizer_key(name: &str, slot: &str, path: &str) -> String {
    format!("optimizer/{name}/{slot}/{path}")
}

/// Reads the small state of a checkpoint.
pub(crate) fn saved_state(checkpoint: &Checkpoint) -> Result<SavedState, TrainError> {
    serde_json::from_value(checkpoint.manifest().run.state.clone())
        .map_err(|source| TrainError::SavedState { path: checkpoint.path().to_path_buf(), source })
}

/// Gives optimizers their state back.
pub(crate) fn restore_optimizers<M: Module>(
    checkpoint: &Checkpoint,
    saved: &SavedState,
    model: &M,
    optimizers: &mut [Owned],
    device: &Device,
) -> Result<(), TrainError> {
    let entries = nn::parameters(model);
    for Owned { optimizer, prefix } in optimizers {
        let name = optimizer.name().to_owned();
        let num_updates = saved.optimizers.get(&name).copied().unwrap_or_default();
        let owned = entries
            .iter()
            .filter(|entry| entry.trainable && super::step::is_below(&entry.path, prefix));
        let sizes = owned.map(|entry| (entry.path.as_str(), entry.num_elements()));
        optimizer.restore(num_updates, sizes, |slot, path| {
            let key = optimizer_key(&name, slot, path);
            if checkpoint.tensor(&key).is_err() {
                return Ok::<_, TrainError>(None);
            }
            let data = checkpoint.read(&key)?;
            let len = data.num_elements();
            Ok(Some(Tensor::<1>::from_data(reshape(data, vec![len]), device)))
        })?;
    }
    Ok(())
}

/// The weights of a checkpoint.
pub(crate) struct CheckpointWeights(pub(crate) Arc<Checkpoint>);

impl WeightSource for CheckpointWeights {
    fn read(&self, entry: &ParameterEntry) -> Result<Option<TensorData>> {
        Ok(Some(self.0.read(&model_key(&entry.path))?))
    }

    fn describe(&self) -> String {
        format!("the weights of step {} in {}", self.0.step(), self.0.path().display())
    }
}

/// Gives every parameter its value from a source.
pub(crate) fn load_weights<M: Module>(
    model: M,
    source: &dyn WeightSource,
) -> Result<M, TrainError> {
    nn::assign_values(model, |entry| {
        let data = source.read(entry).map_err(|error| TrainError::hook("weights", error))?;
        let Some(data) = data else {
            return Err(TrainError::MissingWeight {
                path: entry.path.clone(),
                source_name: source.describe(),
            });
        };
        let found = data.shape().as_slice().to_vec();
        if found != entry.shape {
            return Err(TrainError::WeightShape {
                key: entry.path.clone(),
                found,
                expected: entry.shape.clone(),
            });
        }
        Ok(Some(data))
    })
}

/// Tells what kind of folder weights are to come from.
pub(crate) fn is_checkpoint(path: &Path) -> bool {
    path.join("manifest.json").exists()
}
