//! What a checkpoint belongs to: recorded with it, and compared when a run continues from it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::compare::under;
use super::save;
use super::{BoxError, RunPlan, Streams, TrainError, Trainer, TrainingStep, rank::hook};
use crate::checkpoint::Checkpoint;

/// What a run is beyond the keys of its configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Identity {
    /// What the model computes: [`ModelSetup::architecture`](super::ModelSetup::architecture), and
    /// the name of the recipe.
    pub(crate) architecture: Value,
    /// Path prefix of the parameters of each optimizer, by name.
    pub(crate) optimizers: BTreeMap<String, String>,
    /// Names of the tensors that the algorithm keeps.
    pub(crate) optimizer_state: Vec<String>,
    /// What names the data: [`BatchStream::identity`](super::BatchStream::identity).
    pub(crate) data: Value,
}

impl Identity {
    /// Reads what a run is.
    pub(crate) fn of<S: TrainingStep>(
        trainer: &Trainer<S>,
        config: &S::Config,
        plan: &RunPlan,
        streams: &Streams<S::Batch>,
    ) -> Result<Self, TrainError> {
        let scopes = trainer.setup.optimizers().into_iter();
        let names = plan.optimizer.algorithm.state_names().iter();
        Ok(Self {
            architecture: named(&plan.model, trainer.setup.architecture(config))?,
            optimizers: scopes.map(|scope| (scope.name, scope.prefix)).collect(),
            optimizer_state: names.map(|name| (*name).to_owned()).collect(),
            data: hook("identify data", streams.train.identity())?,
        })
    }

    /// Returns what is compared of the optimizers, by key.
    pub(crate) fn optimizer_table(&self) -> Value {
        under("optimizer", &json!({ "scopes": self.optimizers, "state": self.optimizer_state }))
    }
}

/// Adds the recipe's name to what its model computes.
pub(crate) fn named(recipe: &str, architecture: super::Result<Value>) -> Result<Value, TrainError> {
    let mut table = Map::from_iter([("name".to_owned(), json!(recipe))]);
    match hook("architecture", architecture)? {
        Value::Object(keys) => table.extend(keys),
        other => table.extend([("architecture".to_owned(), other)]),
    }
    Ok(Value::Object(table))
}

/// What is known of a run: its configuration, and what it is beyond that. Checkpoints of a version
/// that did not save the latter have the former only.
#[derive(Debug, Clone)]
pub(crate) struct Recorded {
    settings: Map<String, Value>,
    pub(crate) identity: Option<Identity>,
}

impl Recorded {
    /// Reads what a checkpoint belongs to.
    pub(crate) fn read(checkpoint: &Checkpoint) -> Result<Self, TrainError> {
        let saved = save::saved_state(checkpoint)?;
        let config = &checkpoint.manifest().run.config;
        let text = config.as_str().ok_or_else(|| BoxError::from("it is no text"));
        text.and_then(|text| Self::new(text, saved.identity))
            .map_err(|source| TrainError::SavedConfig { path: checkpoint.path().into(), source })
    }

    /// Reads what a run is.
    pub(crate) fn of(plan: &RunPlan, identity: Identity) -> Result<Self, TrainError> {
        Self::new(&plan.config_text, Some(identity))
            .map_err(|source| TrainError::SavedConfig { path: plan.run.directory(), source })
    }

    /// Takes a configuration as TOML text.
    pub(crate) fn new(config: &str, identity: Option<Identity>) -> Result<Self, BoxError> {
        Ok(Self { settings: toml::from_str(config)?, identity })
    }

    /// Returns the `[model]` table under its name.
    pub(crate) fn model_settings(&self) -> Value {
        under("model", self.settings.get("model").unwrap_or(&Value::Null))
    }

    /// Returns all other tables.
    pub(crate) fn settings_without_model(&self) -> Value {
        let others = self.settings.iter().filter(|(table, _)| *table != "model");
        others.map(|(table, keys)| (table.clone(), keys.clone())).collect()
    }

    /// Returns what names the data, if they can be named.
    pub(crate) fn content(&self) -> Option<&Value> {
        self.identity.as_ref().map(|identity| &identity.data).filter(|data| !data.is_null())
    }
}
