//! Where first weights come from, which of them are taken, and what stays behind.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::TensorData;

use super::compare::Differences;
use super::identity::{Recorded, named};
use super::layouts::Layouts;
use super::rank::hook;
use super::save::{MODEL_SECTION, block, model_key};
use super::{ModelSetup, Result, RunPlan, TrainError, WeightSource, same_run};
use crate::checkpoint::hf::HfDirectory;
use crate::checkpoint::{Check, Checkpoint, CheckpointStore, Selection, listed};
use crate::comm::{MeshComm, ReduceOp};
use crate::mesh::{self, AxisSet};
use crate::nn;

/// Paths that a report names before it only counts.
const REPORTED: usize = 20;

/// The weights of a checkpoint.
pub(crate) struct CheckpointWeights(pub(crate) Arc<Checkpoint>);

impl WeightSource for CheckpointWeights {
    fn paths(&self) -> BTreeSet<String> {
        self.0.keys().filter_map(|key| key.strip_prefix(MODEL_SECTION)).map(Into::into).collect()
    }

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

/// Gives every chosen parameter its value, of which only this rank's block is read, from a source.
///
/// # Errors
///
/// The chosen parameters of the model and of the source are not the same, or not of the same shapes;
/// a pattern chooses nothing.
pub(crate) fn load<M: Module>(
    model: M,
    source: &dyn WeightSource,
    layouts: &Layouts,
    selection: &Selection,
) -> Result<M, TrainError> {
    let (stored, own) = (source.paths(), layouts.iter().map(|(path, _)| path));
    let (stored, own): (BTreeSet<&str>, BTreeSet<&str>) =
        (stored.iter().map(String::as_str).collect(), own.collect());
    selection.check_used(&(&stored | &own))?;
    let chosen = |paths: BTreeSet<&str>| -> Vec<String> {
        paths.into_iter().filter(|path| selection.takes(path)).map(Into::into).collect()
    };
    let (missing, unexpected) = (chosen(&own - &stored), chosen(&stored - &own));
    if !(missing.is_empty() && unexpected.is_empty()) {
        let source_name = source.describe();
        return Err(TrainError::WeightsDiffer { source_name, missing, unexpected });
    }
    let model = nn::assign_values(model, |entry| {
        if !selection.takes(&entry.path) {
            return Ok(None);
        }
        let held = layouts.get(&entry.path);
        let data = source.read(&entry.path, &held.global_shape, &held.layout.block);
        let data = data.map_err(|error| TrainError::hook("weights", error))?;
        let Some(data) = data else {
            let (missing, unexpected) = (vec![entry.path.clone()], Vec::new());
            let source_name = source.describe();
            return Err(TrainError::WeightsDiffer { source_name, missing, unexpected });
        };
        let found = data.shape().as_slice().to_vec();
        if found != entry.shape {
            let (key, expected) = (entry.path.clone(), entry.shape.clone());
            return Err(TrainError::WeightShape { key, found, expected });
        }
        Ok(Some(data))
    })?;
    report(source, &stored, &own, selection);
    Ok(model)
}

/// Tells what was loaded; of a part also what was not, on both sides.
fn report(
    source: &dyn WeightSource,
    stored: &BTreeSet<&str>,
    own: &BTreeSet<&str>,
    selection: &Selection,
) {
    let from = source.describe();
    if selection.is_everything() {
        tracing::info!("loaded all {} parameters from {from}", own.len());
        return;
    }
    let part = |paths: &BTreeSet<&str>, is_chosen: bool| -> Vec<String> {
        let part = paths.iter().filter(|path| selection.takes(path) == is_chosen);
        part.map(|path| (*path).to_owned()).collect()
    };
    let lines = [
        ("loaded", part(own, true)),
        ("made from the seed", part(own, false)),
        ("not used", part(stored, false)),
    ];
    let line =
        |(what, paths): &(&str, Vec<String>)| format!("\n  {what}: {}", listed(paths, REPORTED));
    let lines: String = lines.iter().map(line).collect();
    tracing::info!("loaded a part of the parameters from {from}:{lines}");
}

/// Loads first weights from where the configuration says, or leaves them to be made from the seed.
///
/// # Communication
///
/// An all-reduce of a number where the newest of several checkpoints is taken: all ranks take the
/// one that rank 0 finds.
pub(crate) fn initial<S: ModelSetup>(
    setup: &S,
    config: &S::Config,
    plan: &RunPlan,
    now: &Recorded,
    model: S::Model,
    (layouts, comm): (&Layouts, &MeshComm),
) -> Result<S::Model, TrainError> {
    let init_from = plan.checkpoint.init_from.as_deref();
    let hf_dir = setup.hugging_face_dir(config);
    let Some(path) = init_from.or(hf_dir.as_deref()) else {
        return Ok(model);
    };
    let selection = plan.checkpoint.selection()?;
    let mut differences = Differences::default();
    let source: Box<dyn WeightSource> = match locate(path, comm)? {
        Found::Checkpoint(checkpoint) => {
            let saved = Recorded::read(&checkpoint)?;
            differences = same_run::models_differ(&saved, now, setup.training_keys());
            Box::new(CheckpointWeights(checkpoint))
        }
        Found::HuggingFace(directory) => {
            // `model.hf_dir` is where `[model]` comes from; what is given beside it is meant.
            if init_from.is_some() {
                let stored = setup.hugging_face_architecture(config, &directory);
                let stored = named(&plan.model, stored)?;
                differences = same_run::architectures_differ(&stored, now, setup.training_keys());
            }
            hook("hugging_face_weights", setup.hugging_face_weights(config, directory))?
        }
    };
    if !differences.is_empty() {
        let source_name = source.describe();
        if selection.is_everything() {
            return Err(TrainError::OtherModel { source_name, differences });
        }
        tracing::warn!("takes a part of another model from {source_name}:\n{differences}");
    }
    load(model, source.as_ref(), layouts, &selection)
}

/// A folder with weights, opened.
enum Found {
    Checkpoint(Arc<Checkpoint>),
    HuggingFace(HfDirectory),
}

/// Opens a checkpoint, the newest of a run or of its folder of checkpoints, or a Hugging Face folder.
fn locate(path: &Path, comm: &MeshComm) -> Result<Found, TrainError> {
    if Checkpoint::is_at(path) {
        return Ok(Found::Checkpoint(Arc::new(Checkpoint::open(path)?)));
    }
    for folder in [path.join("checkpoints"), path.to_path_buf()] {
        let store = CheckpointStore::new(&folder);
        if folder.is_dir() && !store.list()?.is_empty() {
            return Ok(Found::Checkpoint(Arc::new(newest(&store, comm)?)));
        }
    }
    if path.join("config.json").exists() {
        let directory = HfDirectory::open(path);
        return Ok(Found::HuggingFace(hook("open weights", directory.map_err(Into::into))?));
    }
    Err(TrainError::NoWeights { path: path.to_path_buf() })
}

/// Opens the newest complete checkpoint as rank 0 sees it: a run may save another one meanwhile.
fn newest(store: &CheckpointStore, comm: &MeshComm) -> Result<Checkpoint, TrainError> {
    let mut found = None;
    if comm.rank() == 0 {
        let scan = store.scan(Check::Files)?;
        for skipped in &scan.skipped {
            let (path, reason) = (skipped.path.display(), &skipped.reason);
            tracing::warn!(%path, %reason, "passed over a checkpoint that cannot be used");
        }
        found = scan.newest;
    }
    // One more than the step, and 0 for none.
    let mut next = [found.as_ref().map_or(0.0, |checkpoint| (checkpoint.step() + 1) as f64)];
    comm.group(AxisSet::WORLD).all_reduce_scalars(&mut next, ReduceOp::Max)?;
    match found {
        Some(found) => Ok(found),
        None if next[0] > 0.0 => Ok(store.open(next[0] as u64 - 1)?),
        None => Err(TrainError::NoWeights { path: store.root().into() }),
    }
}
