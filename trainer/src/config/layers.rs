//! Merges the layers of a configuration and reads them into types.
//!
//! From weak to strong: defaults, the preset, files in the order given, `DREAM_TRAIN_*` variables,
//! `--set` arguments in the order given. Tables merge key by key; anything else, lists included, is
//! replaced as a whole.

use std::{collections::BTreeMap, path::PathBuf};

use figment::{
    Figment, Profile, Provider,
    value::{Dict, Value},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    Config,
    deserialize::Typed,
    device::{DeviceParameters, Preset},
    error::{ConfigError, ConfigErrorKind, ConfigErrors},
    file::Layer,
    key::KeyPath,
    model::{self, ModelTable},
    other_tools, overrides,
    provenance::{Origin, Provenance},
    typed,
};
use crate::{
    callbacks::CallbacksConfig,
    checkpoint::CheckpointConfig,
    data::DataConfig,
    metrics::MetricsConfig,
    optim::{LrSchedulerConfig, OptimizerConfig},
    train::{BoxError, RunConfig, TrainingParameters},
};

/// Tables of a configuration, in the order they are shown.
pub(crate) const TABLES: [&str; 10] = [
    "run",
    "device_parameters",
    "training_parameters",
    "model",
    "optimizer",
    "lr_scheduler",
    "data",
    "checkpoint",
    "metrics",
    "callbacks",
];

/// What a configuration is made from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// TOML files, a later one over an earlier one.
    pub files: Vec<PathBuf>,
    /// Environment variables; those that do not begin with `DREAM_TRAIN_` are ignored.
    pub environment: BTreeMap<String, String>,
    /// `table.key=value`, a later one over an earlier one.
    pub sets: Vec<String>,
    /// Dotted keys that count as not written, wherever they stand.
    pub without: Vec<&'static str>,
}

/// A configuration as declared, and where each of its values comes from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The typed tables.
    pub config: Config,
    /// Origins of the values.
    pub provenance: Provenance,
    /// GPUs of this machine, which are the ranks where nobody says a number; 0 until someone counts.
    pub gpus: usize,
    pub(crate) values: Value,
}

impl Loaded {
    /// Says that the value at `key` cannot be, and why; for checks of parts that do not know files.
    pub fn refuse(&self, key: &KeyPath, reason: impl Into<String>) -> ConfigError {
        model::refuse(key.clone(), &self.values, 0, &self.provenance, reason.into())
    }

    /// Points what a recipe or the trainer found at the first of `keys` that was written, and at the
    /// others; else at the table of the first.
    pub(crate) fn refuse_keys(&self, keys: &[String], fault: BoxError) -> ConfigError {
        let keys = keys.iter().map(|key| KeyPath::dotted(key));
        let mut places = self.places(keys.clone());
        if places.is_empty() {
            places.extend(keys.clone().find_map(|key| self.provenance.nearest_place(&key)));
        }
        ConfigErrorKind::Recipe(fault).at(places)
    }
}

/// Reads, merges and types a configuration. It opens no socket and makes no tensor.
///
/// # Errors
/// Returns everything wrong in the texts: unreadable files, syntax, unknown keys, wrong types and
/// ranges.
///
/// # Examples
/// ```
/// use dream_trainer::config::{Sources, load};
///
/// let sets = ["model.name=mlp", "training_parameters.steps=5", "device_parameters.preset=ddp"];
/// let sources = Sources { sets: sets.map(String::from).to_vec(), ..Sources::default() };
/// let plan = load(&sources)?.resolve(Some(4))?;
/// assert_eq!(plan.training.micro_batch_size, 2);
/// # Ok::<(), dream_trainer::config::ConfigErrors>(())
/// ```
pub fn load(sources: &Sources) -> Result<Loaded, ConfigErrors> {
    let written = read_sources(sources)?;
    let mut layers = vec![defaults()];
    layers.extend(experiment_name(sources));
    layers.extend(preset_layer(&merge(&written)));
    layers.extend(written);
    let values = merge(&layers);
    let provenance = Provenance::new(layers.into_iter().map(|layer| layer.origins).collect());
    read_tables(values, provenance)
}

fn read_sources(sources: &Sources) -> Result<Vec<Layer>, ConfigErrors> {
    let files = sources.files.iter().map(|path| Layer::read_file(path));
    let variables = sources
        .environment
        .iter()
        .filter_map(|(name, value)| overrides::from_variable(name, value))
        .chain(sources.sets.iter().map(|argument| overrides::from_argument(argument)))
        .map(|layer| layer.map_err(|error| vec![error]));
    let mut layers = Vec::new();
    let mut errors = Vec::new();
    for layer in files.chain(variables) {
        match layer {
            Ok(mut layer) => {
                for key in &sources.without {
                    layer.remove(&KeyPath::dotted(key));
                }
                layers.push(layer);
            }
            Err(found) => errors.extend(found),
        }
    }
    ConfigErrors::or(errors, layers)
}

fn merge(layers: &[Layer]) -> Dict {
    let figment = layers.iter().fold(Figment::new(), Figment::merge);
    let merged = figment.data().expect("layers hold values that were already read");
    merged
        .into_iter()
        .find(|(profile, _)| *profile == Profile::Default)
        .map(|(_, values)| values)
        .unwrap_or_default()
}

/// Returns the defaults of all tables that have any.
pub(crate) fn defaults() -> Layer {
    fn table(layer: &mut Layer, name: &str, value: impl Serialize) {
        let value = Value::serialize(value).expect("defaults are numbers, texts and lists of them");
        layer.values.insert(name.to_owned(), without_missing(value));
    }
    let mut layer = Layer::default();
    table(&mut layer, "run", RunConfig::default());
    table(&mut layer, "device_parameters", DeviceParameters::default());
    table(&mut layer, "training_parameters", TrainingParameters::default());
    table(&mut layer, "optimizer", OptimizerConfig::default());
    table(&mut layer, "lr_scheduler", LrSchedulerConfig::default());
    table(&mut layer, "data", DataConfig::default());
    table(&mut layer, "checkpoint", CheckpointConfig::default());
    table(&mut layer, "metrics", MetricsConfig::default());
    table(&mut layer, "callbacks", CallbacksConfig::default());
    layer
}

/// Drops values that are not there, since TOML has no word for them.
fn without_missing(value: Value) -> Value {
    match value {
        Value::Dict(tag, table) => {
            let given = table.into_iter().filter(|(_, value)| !matches!(value, Value::Empty(..)));
            Value::Dict(tag, given.map(|(key, value)| (key, without_missing(value))).collect())
        }
        other => other,
    }
}

/// Names the experiment after the last file, so that repeating a command continues its run.
fn experiment_name(sources: &Sources) -> Option<Layer> {
    let path = sources.files.last()?;
    let stem = path.file_stem()?.to_str()?;
    let mut layer = Layer::default();
    let origin = Origin::Derived(format!("the name of {}", path.display()));
    layer.insert(&KeyPath::dotted("run.experiment"), Value::from(stem), &origin);
    Some(layer)
}

fn preset_layer(written: &Dict) -> Option<Layer> {
    let named = typed::get(written.get("device_parameters")?, &["preset".to_owned()])?;
    // A preset that does not exist is reported where the table is read.
    let preset = Preset::deserialize(Typed(named)).ok()?;
    let table = KeyPath::dotted("device_parameters");
    let mut layer = Layer::default();
    for (key, degree) in preset.degrees() {
        let value = Value::serialize(degree).expect("a degree is a number or a text");
        layer.insert(&table.child(key), value, &Origin::Preset(preset));
    }
    Some(layer)
}

fn read_tables(mut values: Dict, provenance: Provenance) -> Result<Loaded, ConfigErrors> {
    let mut errors = Vec::new();
    for name in values.keys().filter(|name| !TABLES.contains(&name.as_str())) {
        let key = KeyPath::root().child(name);
        let place = provenance.nearest_place(&key);
        errors.extend(inside_unknown_table(&key, &values[name], &provenance));
        errors.push(typed::unknown_key(key, TABLES.into_iter()).at(place));
    }
    values.retain(|name, _| TABLES.contains(&name.as_str()));
    let config = Tables { values: &values, provenance: &provenance, errors: &mut errors }.read();
    match config {
        Some(config) if errors.is_empty() => {
            Ok(Loaded { config, provenance, gpus: 0, values: Value::from(values) })
        }
        _ => Err(ConfigErrors::found(errors)),
    }
}

/// Tells the names that keys of an unknown table have here, as far as other tools explain them.
fn inside_unknown_table(
    table: &KeyPath,
    value: &Value,
    provenance: &Provenance,
) -> Vec<ConfigError> {
    let Value::Dict(_, keys) = value else { return Vec::new() };
    let keys = keys.keys().map(|name| table.child(name));
    let known = keys.filter(|key| other_tools::name_here(key, &[]).is_some());
    let error = |key: KeyPath| {
        let place = provenance.nearest_place(&key);
        typed::unknown_key(key, std::iter::empty()).at(place)
    };
    known.map(error).collect()
}

struct Tables<'a> {
    values: &'a Dict,
    provenance: &'a Provenance,
    errors: &'a mut Vec<ConfigError>,
}

impl Tables<'_> {
    /// Reads every table before it gives up, so that the errors of all are found.
    fn read(mut self) -> Option<Config> {
        let run = self.table::<RunConfig>("run");
        let device_parameters = self.table::<DeviceParameters>("device_parameters");
        let training_parameters = self.table::<TrainingParameters>("training_parameters");
        let model = ModelTable::read(self.values.get("model"), self.provenance, self.errors);
        let optimizer = self.table::<OptimizerConfig>("optimizer");
        let lr_scheduler = self.table::<LrSchedulerConfig>("lr_scheduler");
        let data = self.table::<DataConfig>("data");
        let checkpoint = self.table::<CheckpointConfig>("checkpoint");
        let metrics = self.table::<MetricsConfig>("metrics");
        let callbacks = self.table::<CallbacksConfig>("callbacks");
        Some(Config {
            run: run?,
            device_parameters: device_parameters?,
            training_parameters: training_parameters?,
            model: model?,
            optimizer: optimizer?,
            lr_scheduler: lr_scheduler?,
            data: data?,
            checkpoint: checkpoint?,
            metrics: metrics?,
            callbacks: callbacks?,
        })
    }

    fn table<T: DeserializeOwned + JsonSchema>(&mut self, name: &str) -> Option<T> {
        let value = self.values.get(name).expect("every table but `model` has defaults");
        typed::parse_table(value, &KeyPath::dotted(name), self.provenance, self.errors)
    }
}
