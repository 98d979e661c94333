//! Keys that do nothing under the other keys: an error where they were written.
//!
//! The rule has three parts:
//!
//! - A key that somebody wrote, with another value than its default, and that cannot have an effect
//!   is refused. Writing a default is always fine, so a plan that `--cfg` shows loads again.
//! - What a stronger layer turns off stays in the weaker one: `--set checkpoint.enable=false` over a
//!   file with `every_n_steps` is a wish, in one and the same file it is a contradiction. Keys that
//!   say where a run starts are no part of this, since without them it would be another run.
//! - A degree that is `"auto"` may become anything, so its options may stand whatever it becomes.
//!
//! Each row of [`DEPENDENTS`] is one such dependency. Choices between alternatives, such as the keys
//! of an optimizer or a data source, are checked by their components.

use figment::value::Value;

use super::{
    Config,
    device::{ActivationCheckpointing, FloatType},
    error::{ConfigError, ConfigErrorKind},
    key::KeyPath,
    layers::{Loaded, defaults},
    plan::ResolvedConfig,
    typed::{self, brief},
};
use crate::{
    checkpoint::ResumeMode,
    data::{DataConfig, SourceName},
    mesh::{Axis, AxisSet, Degree},
    optim::ScheduleName,
    train::NonFinitePolicy,
};

/// Keys that matter only while others let them.
struct Dependents {
    /// The keys; a table stands for all keys in it.
    keys: &'static [&'static str],
    /// The keys that decide.
    switches: &'static [&'static str],
    /// Tells whether the keys do nothing.
    are_idle: fn(&Situation<'_>) -> bool,
    /// Why they do nothing then.
    reason: &'static str,
    /// What would give them an effect.
    remedy: &'static str,
    /// Whether a stronger layer may turn them off.
    can_be_turned_off: bool,
}

/// Every dependency. A key may stand in several rows; the first that applies is told.
const DEPENDENTS: &[Dependents] = &[
    Dependents {
        keys: &[
            "checkpoint.resume",
            "checkpoint.resume_step",
            "checkpoint.reset",
            "checkpoint.branch",
        ],
        switches: &["checkpoint.enable"],
        are_idle: |now| !now.config.checkpoint.enable,
        reason: "a run neither saves nor resumes while `checkpoint.enable` is false",
        remedy: "set `checkpoint.enable = true`",
        can_be_turned_off: false,
    },
    Dependents {
        keys: &["checkpoint.init_include", "checkpoint.init_exclude"],
        switches: &["checkpoint.init_from"],
        are_idle: |now| {
            let loads_a_folder = now.config.model.values().contains_key("hf_dir");
            now.config.checkpoint.init_from.is_none() && !loads_a_folder
        },
        reason: "it chooses among the weights of `checkpoint.init_from` or `model.hf_dir`",
        remedy: "give one of them",
        can_be_turned_off: true,
    },
    Dependents {
        keys: &["checkpoint.branch"],
        switches: &["checkpoint.resume_step", "checkpoint.reset"],
        are_idle: |now| {
            let checkpoint = &now.config.checkpoint;
            checkpoint.resume_step.is_none() && checkpoint.reset.is_empty()
        },
        reason: "it names what `checkpoint.resume_step` or `checkpoint.reset` begins",
        remedy: "give one of them",
        can_be_turned_off: false,
    },
    Dependents {
        keys: &[
            "checkpoint.every_n_steps",
            "checkpoint.keep_latest",
            "checkpoint.background",
            "checkpoint.save_last",
            "checkpoint.save_on_interrupt",
        ],
        switches: &["checkpoint.enable"],
        are_idle: |now| !now.config.checkpoint.enable,
        reason: "nothing is saved while `checkpoint.enable` is false",
        remedy: "set `checkpoint.enable = true`",
        can_be_turned_off: true,
    },
    Dependents {
        keys: &["checkpoint.init_from"],
        switches: &["checkpoint.resume", "checkpoint.enable"],
        are_idle: |now| {
            let checkpoint = &now.config.checkpoint;
            checkpoint.enable && checkpoint.resume == ResumeMode::Must
        },
        reason: "with `checkpoint.resume = \"must\"` all weights come from a checkpoint of the run",
        remedy: "set `checkpoint.resume = \"auto\"`",
        can_be_turned_off: true,
    },
    Dependents {
        keys: &[
            "training_parameters.val_every_n_steps",
            "training_parameters.num_sanity_val_steps",
        ],
        switches: &["data.validation_fraction", "data.validation_files"],
        are_idle: |now| !has_validation(&now.config.data),
        reason: "there are no validation data",
        remedy: "give `data.validation_fraction` or `data.validation_files`",
        can_be_turned_off: true,
    },
    Dependents {
        keys: &["training_parameters.val_steps"],
        switches: &["training_parameters.val_every_n_steps"],
        are_idle: |now| now.config.training_parameters.val_every_n_steps == 0,
        reason: "validation never runs while `val_every_n_steps` is 0",
        remedy: "set `training_parameters.val_every_n_steps`",
        can_be_turned_off: true,
    },
    Dependents {
        keys: &["training_parameters.max_consecutive_skips"],
        switches: &["training_parameters.on_nonfinite"],
        are_idle: |now| now.config.training_parameters.on_nonfinite == NonFinitePolicy::Stop,
        reason: "the first number that is not finite ends the run with `on_nonfinite = \"stop\"`",
        remedy: "set `training_parameters.on_nonfinite = \"skip\"`",
        can_be_turned_off: true,
    },
    Dependents {
        keys: &["data.validation_files"],
        switches: &[
            "training_parameters.val_every_n_steps",
            "training_parameters.num_sanity_val_steps",
        ],
        are_idle: |now| {
            let training = &now.config.training_parameters;
            training.val_every_n_steps == 0 && training.num_sanity_val_steps == 0
        },
        reason: "nobody reads them while `val_every_n_steps` and `num_sanity_val_steps` are 0",
        remedy: "set `training_parameters.val_every_n_steps`",
        can_be_turned_off: true,
    },
    Dependents {
        keys: &["data.parse_special_tokens"],
        switches: &["data.tokenizer"],
        are_idle: |now| {
            let data = &now.config.data;
            let is_text = matches!(data.source, SourceName::Text | SourceName::Jsonl);
            is_text && data.tokenizer.as_deref().is_none_or(|name| name == "byte")
        },
        reason: "bytes have no special tokens",
        remedy: "give `data.tokenizer` the path of a `tokenizer.json`",
        can_be_turned_off: true,
    },
    Dependents {
        keys: &["lr_scheduler.total_steps", "lr_scheduler.min_lr_factor"],
        switches: &["lr_scheduler.name"],
        are_idle: |now| now.config.lr_scheduler.name == ScheduleName::Constant,
        reason: "the rate does not fall with `lr_scheduler.name = \"constant\"`",
        remedy: "choose `linear`, `cosine` or `wsd`",
        can_be_turned_off: true,
    },
    Dependents {
        keys: &["callbacks.benchmark.warmup_steps"],
        switches: &["callbacks.benchmark.enable"],
        are_idle: |now| !now.config.callbacks.benchmark.enable,
        reason: "nothing is timed while `callbacks.benchmark.enable` is false",
        remedy: "set `callbacks.benchmark.enable = true`",
        can_be_turned_off: true,
    },
    Dependents {
        keys: &[
            "device_parameters.loss_parallel",
            "device_parameters.sequence_parallel",
            "device_parameters.async_tensor_parallel",
        ],
        switches: &["device_parameters.tensor_parallel"],
        are_idle: |now| now.is_single(Axis::Tp.into()),
        reason: "no matrix is split while `tensor_parallel` is 1",
        remedy: "give `device_parameters.tensor_parallel` a degree or `\"auto\"`",
        can_be_turned_off: true,
    },
    Dependents {
        keys: &["device_parameters.reshard", "device_parameters.accumulate_whole_gradients"],
        switches: &[
            "device_parameters.dp_shard",
            "device_parameters.context_parallel",
            "device_parameters.preset",
        ],
        are_idle: |now| now.is_single(AxisSet::FSDP),
        reason: "nothing is sharded while `dp_shard` is 1",
        remedy: "give `device_parameters.dp_shard` a degree or `\"auto\"`",
        can_be_turned_off: true,
    },
    Dependents {
        keys: &["device_parameters.pipeline"],
        switches: &["device_parameters.pipeline_parallel"],
        are_idle: |now| now.is_single(Axis::Pp.into()),
        reason: "there is one stage while `pipeline_parallel` is 1",
        remedy: "give `device_parameters.pipeline_parallel` a degree or `\"auto\"`",
        can_be_turned_off: true,
    },
    Dependents {
        keys: &["device_parameters.context"],
        switches: &["device_parameters.context_parallel"],
        are_idle: |now| now.is_single(Axis::Cp.into()),
        reason: "no sequence is shared while `context_parallel` is 1",
        remedy: "give `device_parameters.context_parallel` a degree or `\"auto\"`",
        can_be_turned_off: true,
    },
    Dependents {
        keys: &["device_parameters.grad_scaler"],
        switches: &["device_parameters.param_dtype"],
        are_idle: |now| now.config.device_parameters.param_dtype != FloatType::F16,
        reason: "losses are scaled with `param_dtype = \"f16\"` only; `bf16` and `f32` need no scaling",
        remedy: "set `device_parameters.param_dtype = \"f16\"`",
        can_be_turned_off: true,
    },
    Dependents {
        keys: &["device_parameters.checkpoint_every_nth_block"],
        switches: &["device_parameters.activation_checkpointing"],
        are_idle: |now| {
            let device = &now.config.device_parameters;
            device.activation_checkpointing != ActivationCheckpointing::Full
        },
        reason: "it chooses among the blocks of `activation_checkpointing = \"full\"`",
        remedy: "set `device_parameters.activation_checkpointing = \"full\"`",
        can_be_turned_off: true,
    },
];

/// What decides whether keys have an effect.
struct Situation<'a> {
    config: &'a Config,
    /// The axes that have one rank.
    single: AxisSet,
}

impl<'a> Situation<'a> {
    /// Takes degrees as they were declared, before anybody knows the number of ranks.
    fn declared(config: &'a Config) -> Self {
        let degrees = config.device_parameters.degrees();
        let single = Axis::ALL.into_iter().filter(|axis| degrees.get(*axis) == Degree::Fixed(1));
        Self { config, single: together(single) }
    }

    /// Takes degrees as they are on a mesh.
    fn resolved(config: &'a Config, resolved: &ResolvedConfig) -> Self {
        let mesh = &resolved.device.mesh;
        let single = Axis::ALL.into_iter().filter(|axis| mesh.size(*axis) == 1);
        Self { config, single: together(single) }
    }

    fn is_single(&self, axes: AxisSet) -> bool {
        axes.iter().all(|axis| self.single.contains(axis))
    }
}

fn together(axes: impl Iterator<Item = Axis>) -> AxisSet {
    axes.fold(AxisSet::of(&[]), |set, axis| set | axis)
}

/// Tells whether a share of the data or files of their own are kept for validation.
pub(crate) fn has_validation(data: &DataConfig) -> bool {
    data.validation_fraction > 0.0 || !data.validation_files.is_empty()
}

/// A key that was written and does nothing.
pub(crate) struct Idle {
    pub(crate) key: KeyPath,
    /// Its default, if it has one.
    pub(crate) default: Option<Value>,
    pub(crate) reason: &'static str,
}

/// Refuses every key that was written and cannot have an effect.
pub(crate) fn check_effects(loaded: &Loaded, errors: &mut Vec<ConfigError>) {
    for (row, idle) in idle_keys(loaded, &Situation::declared(&loaded.config)) {
        if row.can_be_turned_off && is_turned_off(loaded, row, &idle.key) {
            continue;
        }
        let switches = row.switches.iter().map(|key| KeyPath::dotted(key));
        let places = loaded.places([idle.key.clone()].into_iter().chain(switches));
        let value = typed::get(&loaded.values, idle.key.segments()).map_or_else(String::new, brief);
        let (reason, remedy) = (row.reason, row.remedy);
        errors.push(ConfigErrorKind::NoEffect { key: idle.key, value, reason, remedy }.at(places));
    }
}

/// Lists the keys that were written and do nothing on the mesh of a plan.
pub(crate) fn idle_on_mesh(loaded: &Loaded, resolved: &ResolvedConfig) -> Vec<Idle> {
    let idle = idle_keys(loaded, &Situation::resolved(&loaded.config, resolved));
    idle.into_iter().map(|(_, idle)| idle).collect()
}

fn idle_keys(loaded: &Loaded, now: &Situation<'_>) -> Vec<(&'static Dependents, Idle)> {
    let defaults = Value::from(defaults().values);
    let mut found: Vec<(&'static Dependents, Idle)> = Vec::new();
    for row in DEPENDENTS.iter().filter(|row| (row.are_idle)(now)) {
        for key in row.keys.iter().flat_map(|key| leaves(&loaded.values, &KeyPath::dotted(key))) {
            let default = typed::get(&defaults, key.segments());
            let given = typed::get(&loaded.values, key.segments());
            let says_nothing =
                given.zip(default).is_some_and(|(given, default)| typed::same(given, default));
            let is_told = found.iter().any(|(_, other)| other.key == key);
            if loaded.provenance.is_written(&key) && !says_nothing && !is_told {
                found.push((row, Idle { key, default: default.cloned(), reason: row.reason }));
            }
        }
    }
    found
}

/// Returns the keys of values at `key`, or `key` itself where it is no table.
fn leaves(values: &Value, key: &KeyPath) -> Vec<KeyPath> {
    match typed::get(values, key.segments()) {
        Some(Value::Dict(_, table)) => {
            table.keys().flat_map(|name| leaves(values, &key.child(name))).collect()
        }
        Some(_) => vec![key.clone()],
        None => Vec::new(),
    }
}

/// Tells whether a switch was set in a stronger layer than the key it turns off.
fn is_turned_off(loaded: &Loaded, row: &Dependents, key: &KeyPath) -> bool {
    let strength = |key: &KeyPath| loaded.provenance.strength(key);
    let switches = row.switches.iter().filter_map(|switch| strength(&KeyPath::dotted(switch)));
    switches.max() > strength(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::schema;

    #[test]
    fn rows_name_keys_that_exist() {
        let root = schema::schema_of::<Config>();
        for key in DEPENDENTS.iter().flat_map(|row| row.keys.iter().chain(row.switches)) {
            let path = KeyPath::dotted(key);
            assert!(schema::find(&root, &root, path.segments()).is_some(), "{key}");
        }
    }
}
