//! Saving and restoring the whole state of a run.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::layouts::{Held, Layouts};
use super::start::StartRequest;
use super::step::Owned;
use super::{Result, TrainError, WeightSource};
use crate::checkpoint::{Block, Checkpoint, Shard};
use crate::comm::MeshComm;
use crate::mesh;
use crate::nn;
use crate::optim::GradScalerState;

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
    /// Loss scale, with `f16`.
    #[serde(default)]
    pub(crate) grad_scaler: Option<GradScalerState>,
    /// What the start that wrote it had asked for.
    #[serde(default)]
    pub(crate) request: StartRequest,
}

/// Copies the model and optimizer blocks that this rank writes to host memory, under their
/// checkpoint keys.
pub(crate) fn snapshot<M: Module>(
    model: &M,
    optimizers: &[Owned],
    layouts: &Layouts,
    comm: &MeshComm,
) -> Vec<(String, Shard)> {
    let mut shards = Vec::new();
    nn::for_each_value(model, |path, _, value| {
        if layouts.writes(path, comm) {
            shards.push((model_key(path), shard(value, layouts.get(path))));
        }
    });
    for Owned { optimizer, .. } in optimizers {
        for (slot, path, value) in optimizer.state().filter(|slot| layouts.writes(slot.1, comm)) {
            let key = optimizer_key(optimizer.name(), slot, path);
            shards.push((key, shard(value.clone(), layouts.get(path))));
        }
    }
    shards
}

fn shard(flat: Tensor<1>, held: &Held) -> Shard {
    let block = &held.layout.block;
    Shard {
        global_shape: held.global_shape.clone(),
        offset: block.offset.clone(),
        data: reshape(flat.into_data(), block.shape.clone()),
    }
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
    layouts: &Layouts,
) -> Result<(), TrainError> {
    let entries = nn::parameters(model);
    let devices: BTreeMap<&str, &Device> =
        entries.iter().map(|entry| (entry.path.as_str(), &entry.device)).collect();
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
            let held = layouts.get(path);
            let data =
                checkpoint.read_shard(&key, &held.global_shape, &block(&held.layout.block))?;
            let len = data.num_elements();
            Ok(Some(Tensor::<1>::from_data(reshape(data, vec![len]), devices[path])))
        })?;
    }
    Ok(())
}

/// The weights of a checkpoint.
pub(crate) struct CheckpointWeights(pub(crate) Arc<Checkpoint>);

impl WeightSource for CheckpointWeights {
    fn read(
        &self,
        path: &str,
        global_shape: &[usize],
        wanted: &mesh::Block,
    ) -> Result<Option<TensorData>> {
        Ok(Some(self.0.read_shard(&model_key(path), global_shape, &block(wanted))?))
    }

    fn describe(&self) -> String {
        format!("the weights of step {} in {}", self.0.step(), self.0.path().display())
    }
}

fn block(block: &mesh::Block) -> Block {
    Block::new(block.offset.clone(), block.shape.clone())
}

/// Gives every parameter its value, of which only this rank's block is read, from a source.
pub(crate) fn load_weights<M: Module>(
    model: M,
    source: &dyn WeightSource,
    layouts: &Layouts,
) -> Result<M, TrainError> {
    nn::assign_values(model, |entry| {
        let held = layouts.get(&entry.path);
        let data = source.read(&entry.path, &held.global_shape, &held.layout.block);
        let data = data.map_err(|error| TrainError::hook("weights", error))?;
        let Some(data) = data else {
            let (path, source_name) = (entry.path.clone(), source.describe());
            return Err(TrainError::MissingWeight { path, source_name });
        };
        let found = data.shape().as_slice().to_vec();
        if found != entry.shape {
            let (key, expected) = (entry.path.clone(), entry.shape.clone());
            return Err(TrainError::WeightShape { key, found, expected });
        }
        Ok(Some(data))
    })
}

/// Tells what kind of folder weights are to come from.
pub(crate) fn is_checkpoint(path: &Path) -> bool {
    path.join("manifest.json").exists()
}
