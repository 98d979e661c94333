//! Saving the whole state of a run, and giving optimizers theirs back.

use std::collections::{BTreeMap, BTreeSet};

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::TrainError;
use super::identity::Identity;
use super::layouts::{Held, Layouts};
use super::request::StartRequest;
use super::step::{Owned, is_below};
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
    /// Those of them at the end, which a new start counts anew.
    #[serde(skip)]
    pub(crate) skips_in_a_row: u64,
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
    /// Update at which the learning-rate schedule begins.
    #[serde(default)]
    pub(crate) schedule_start: u64,
    /// Parameters that no update has reached yet, which therefore have no optimizer state.
    #[serde(default)]
    pub(crate) never_updated: BTreeSet<String>,
    /// What the checkpoint belongs to, beside its configuration.
    #[serde(default)]
    pub(crate) identity: Option<Identity>,
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

/// Beginning of the keys of weights.
pub(crate) const MODEL_SECTION: &str = "model/";
/// Beginning of the keys of optimizer state.
const OPTIMIZER_SECTION: &str = "optimizer/";

pub(crate) fn model_key(path: &str) -> String {
    format!("{MODEL_SECTION}{path}")
}

fn optimizer_key(name: &str, slot: &str, path: &str) -> String {
    format!("{OPTIMIZER_SECTION}{name}/{slot}/{path}")
}

/// Reads the small state of a checkpoint.
pub(crate) fn saved_state(checkpoint: &Checkpoint) -> Result<SavedState, TrainError> {
    serde_json::from_value(checkpoint.manifest().run.state.clone())
        .map_err(|source| TrainError::SavedState { path: checkpoint.path().to_path_buf(), source })
}

/// Lists the parameters of optimizers that have made updates which none of them has reached.
pub(crate) fn never_updated<M: Module>(model: &M, optimizers: &[Owned]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for Owned { optimizer, prefix } in optimizers.iter().filter(|owned| has_updates(owned)) {
        let reached: BTreeSet<&str> = optimizer.state().map(|(_, path, _)| path).collect();
        let keeps_state = |path: &str| !optimizer.state_names(path).is_empty();
        found.extend(
            trainable_below(model, prefix)
                .map(|entry| entry.path)
                .filter(|path| keeps_state(path) && !reached.contains(path.as_str())),
        );
    }
    found
}

fn has_updates(owned: &Owned) -> bool {
    owned.optimizer.num_updates() > 0
}

fn trainable_below<M: Module>(model: &M, prefix: &str) -> impl Iterator<Item = nn::ParameterEntry> {
    let entries = nn::parameters(model).into_iter();
    entries.filter(move |entry| entry.trainable && is_below(&entry.path, prefix))
}

/// Gives optimizers their state back.
///
/// # Errors
///
/// The checkpoint has other state than the optimizers would have after their updates: less of it is
/// as wrong as more.
pub(crate) fn restore_optimizers<M: Module>(
    checkpoint: &Checkpoint,
    saved: &SavedState,
    model: &M,
    optimizers: &mut [Owned],
    layouts: &Layouts,
) -> Result<(), TrainError> {
    let expected = expected_state(saved, model, optimizers);
    checkpoint.check_keys(OPTIMIZER_SECTION, expected.iter().map(String::as_str))?;
    let entries = nn::parameters(model);
    let devices: BTreeMap<&str, &Device> =
        entries.iter().map(|entry| (entry.path.as_str(), &entry.device)).collect();
    for Owned { optimizer, prefix } in optimizers {
        let name = optimizer.name().to_owned();
        let num_updates = saved.optimizers.get(&name).copied().unwrap_or_default();
        let owned = entries.iter().filter(|entry| entry.trainable && is_below(&entry.path, prefix));
        let sizes = owned.map(|entry| (entry.path.as_str(), entry.num_elements()));
        optimizer.restore(num_updates, sizes, |slot, path| {
            let key = optimizer_key(&name, slot, path);
            if !expected.contains(&key) {
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

/// Lists the keys that the optimizers' state has after the saved updates.
fn expected_state<M: Module>(
    saved: &SavedState,
    model: &M,
    optimizers: &[Owned],
) -> BTreeSet<String> {
    let mut expected = BTreeSet::new();
    for Owned { optimizer, prefix } in optimizers {
        let name = optimizer.name();
        if saved.optimizers.get(name).is_none_or(|num_updates| *num_updates == 0) {
            continue;
        }
        for entry in trainable_below(model, prefix) {
            if !saved.never_updated.contains(&entry.path) {
                let slots = optimizer.state_names(&entry.path).iter();
                expected.extend(slots.map(|slot| optimizer_key(name, slot, &entry.path)));
            }
        }
    }
    expected
}

/// Puts a block of the mesh in the terms of checkpoints.
pub(crate) fn block(block: &mesh::Block) -> Block {
    Block::new(block.offset.clone(), block.shape.clone())
}
