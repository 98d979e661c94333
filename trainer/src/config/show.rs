//! Writes the resolved plan as TOML, each value with its origin: what `--cfg` prints.

use std::fmt::Display;

use figment::value::{Dict, Value};

use super::{
    Config,
    effect::{Idle, idle_on_mesh},
    key::KeyPath,
    layers::{Loaded, TABLES},
    plan::ResolvedConfig,
    provenance::Origin,
    resolve::{degree_key, device_key},
    schema,
    typed::{self, quoted, to_toml},
};
use crate::{
    data::{DocumentFormat, SourcePlan, TokenizerChoice},
    mesh::{Axis, AxisSet},
    optim::{Algorithm, OptimizerConfig, ScheduleName},
    train::RunLength,
};

/// Column at which origins begin where the value leaves room.
const ORIGIN_COLUMN: usize = 44;

impl Loaded {
    /// Returns the plan as a TOML text that, loaded again, gives the same plan.
    pub fn show(&self, resolved: &ResolvedConfig) -> String {
        let schema = schema::schema_of::<Config>();
        let derived = derived(self, resolved);
        let idle = idle_on_mesh(self, resolved);
        let mut shown = Shown { loaded: self, schema: &schema, derived, idle, text: String::new() };
        for name in TABLES {
            let key = KeyPath::dotted(name);
            if name == "model" {
                shown.table(&key, self.config.model.values());
            } else if let Value::Dict(_, tables) = &self.values
                && let Some(Value::Dict(_, table)) = tables.get(name)
            {
                shown.table(&key, table);
            }
        }
        shown.text
    }
}

/// A value that was not given, and where it comes from.
struct Derived {
    key: KeyPath,
    value: String,
    origin: Origin,
}

impl Derived {
    fn new(key: KeyPath, value: impl Display, from: impl Into<String>) -> Self {
        Self { key, value: value.to_string(), origin: Origin::Derived(from.into()) }
    }

    fn default(key: &str, value: impl Into<Value>) -> Self {
        Self { key: KeyPath::dotted(key), value: to_toml(&value.into()), origin: Origin::Default }
    }
}

fn derived(loaded: &Loaded, resolved: &ResolvedConfig) -> Vec<Derived> {
    let mut found = derived_ranks(loaded, resolved);
    found.extend(derived_batch(resolved));
    found.extend(optimizer_defaults(loaded, resolved));
    found.extend(data_defaults(resolved));
    if let RunLength::Steps(steps) = resolved.training.length
        && resolved.lr_scheduler.name != ScheduleName::Constant
    {
        let key = KeyPath::dotted("lr_scheduler.total_steps");
        found.push(Derived::new(key, steps, "training_parameters.steps"));
    }
    // `auto` is declared and yet derived; anything else that is declared stands for itself.
    found.retain(|derived| {
        let declared = typed::get(&loaded.values, derived.key.segments());
        declared.is_none_or(|value| matches!(value, Value::String(_, text) if text == "auto"))
    });
    found
}

fn derived_ranks(loaded: &Loaded, resolved: &ResolvedConfig) -> Vec<Derived> {
    let mesh = &resolved.device.mesh;
    let world = mesh.world_size();
    let mut found: Vec<Derived> = Axis::ALL
        .into_iter()
        .map(|axis| {
            let key = device_key(degree_key(axis));
            let origin = loaded.provenance.origin(&key);
            let from = format!("world size {world} and \"auto\", {origin}");
            Derived::new(key, mesh.size(axis), from)
        })
        .collect();
    let from = match (resolved.device.is_launched, loaded.gpus) {
        (true, _) => "the launcher",
        (false, 0) => "no launcher",
        (false, _) => "no launcher, and the GPUs of this machine",
    };
    found.push(Derived::new(device_key("world_size"), world, from));
    found
}

fn derived_batch(resolved: &ResolvedConfig) -> Vec<Derived> {
    let training = &resolved.training;
    let table = KeyPath::dotted("training_parameters");
    let ranks = resolved.device.mesh.size(AxisSet::DP);
    let from = format!("global batch {}, {ranks} data-parallel ranks", training.global_batch_size);
    let micro = Derived::new(table.child("micro_batch_size"), training.micro_batch_size, &from);
    let key = table.child("gradient_accumulation_steps");
    let accumulation = Derived::new(key, training.gradient_accumulation_steps, &from);
    let parts = resolved.device.pipeline.as_ref().map(|pipeline| {
        let key = device_key("pipeline").child("num_microbatches");
        Derived::new(key, pipeline.num_microbatches, "training_parameters.micro_batch_size")
    });
    [micro, accumulation].into_iter().chain(parts).collect()
}

fn optimizer_defaults(loaded: &Loaded, resolved: &ResolvedConfig) -> Vec<Derived> {
    // Without its groups the table's own weight decay applies to every path.
    let table = OptimizerConfig { param_groups: Vec::new(), ..loaded.config.optimizer.clone() };
    let decay = table.resolve().map(|plan| plan.settings("").weight_decay);
    let decay = decay.ok().map(|decay| Derived::default("optimizer.weight_decay", decay));
    let adam = |betas: [f64; 2], eps: f64| {
        [
            Derived::default("optimizer.betas", betas.map(Value::from).to_vec()),
            Derived::default("optimizer.eps", eps),
        ]
    };
    let heavy = |momentum: f64, nesterov: bool| {
        [
            Derived::default("optimizer.momentum", momentum),
            Derived::default("optimizer.nesterov", nesterov),
        ]
    };
    let own: Vec<_> = match resolved.optimizer.algorithm {
        Algorithm::Adam { betas, eps, .. } => adam(betas, eps).into(),
        Algorithm::Sgd { momentum, nesterov } => heavy(momentum, nesterov).into(),
        Algorithm::Muon { momentum, nesterov, newton_schulz_steps, adamw_lr, betas, eps } => {
            let own = [
                Derived::default("optimizer.newton_schulz_steps", newton_schulz_steps),
                Derived::default("optimizer.adamw_lr", adamw_lr),
            ];
            adam(betas, eps).into_iter().chain(heavy(momentum, nesterov)).chain(own).collect()
        }
    };
    own.into_iter().chain(decay).collect()
}

fn data_defaults(resolved: &ResolvedConfig) -> Vec<Derived> {
    match &resolved.data.source {
        SourcePlan::Documents { format, tokenizer, .. } => {
            let tokenizer = (*tokenizer == TokenizerChoice::Byte).then_some("byte");
            let field = match format {
                DocumentFormat::Jsonl { field } => Some(field.as_str()),
                DocumentFormat::Text => None,
            };
            let tokenizer = tokenizer.map(|name| Derived::default("data.tokenizer", name));
            tokenizer
                .into_iter()
                .chain(field.map(|name| Derived::default("data.field", name)))
                .collect()
        }
        SourcePlan::Synthetic { vocab_size, num_sequences } => vec![
            Derived::default("data.vocab_size", *vocab_size),
            Derived::default("data.num_sequences", *num_sequences),
        ],
        SourcePlan::Tokens { .. } => Vec::new(),
    }
}

struct Shown<'a> {
    loaded: &'a Loaded,
    schema: &'a serde_json::Value,
    derived: Vec<Derived>,
    idle: Vec<Idle>,
    text: String,
}

impl Shown<'_> {
    /// Writes a table: its values first, as TOML demands, then the tables inside it.
    fn table(&mut self, at: &KeyPath, table: &Dict) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        let header: Vec<String> = at.iter().map(quoted).collect();
        self.text.extend(["[", &header.join("."), "]\n"]);
        let mut lines: Vec<(usize, String)> = Vec::new();
        let mut inner = Vec::new();
        for (key, value) in table {
            let path = at.child(key);
            match value {
                Value::Dict(_, table) => inner.push((self.rank(&path), path, table)),
                _ => lines.push((self.rank(&path), self.value(&path, key, value))),
            }
        }
        for derived in &self.derived {
            if let Some((parent, key)) = derived.key.split_last()
                && parent == *at
                && !table.contains_key(key)
            {
                let line = line(key, &derived.value, &derived.origin);
                lines.push((self.rank(&derived.key), line));
            }
        }
        lines.sort_by_key(|(rank, _)| *rank);
        inner.sort_by_key(|(rank, ..)| *rank);
        self.text.extend(lines.into_iter().map(|(_, line)| line));
        for (_, path, table) in inner {
            self.table(&path, table);
        }
    }

    /// Returns the position of a key in its table as declared; keys of recipes come last, by name.
    fn rank(&self, path: &KeyPath) -> usize {
        let position = path.split_last().and_then(|(parent, key)| {
            let table = schema::find(self.schema, self.schema, parent.segments())?;
            schema::properties(self.schema, table)?.keys().position(|name| name == key)
        });
        position.unwrap_or(usize::MAX)
    }

    fn value(&self, path: &KeyPath, key: &str, value: &Value) -> String {
        if let Some(idle) = self.idle.iter().find(|idle| idle.key == *path) {
            return self.without_effect(idle, key, value);
        }
        let derived = self.derived.iter().find(|derived| derived.key == *path);
        match derived {
            Some(Derived { value, origin, .. }) => line(key, value, origin),
            None => line(key, &to_toml(value), &self.loaded.provenance.origin(path)),
        }
    }
}

impl Shown<'_> {
    /// Writes what was given and does nothing as a comment, after the default that holds instead.
    fn without_effect(&self, idle: &Idle, key: &str, given: &Value) -> String {
        let default =
            idle.default.as_ref().map(|value| line(key, &to_toml(value), &Origin::Default));
        let origin = self.loaded.provenance.origin(&idle.key);
        let given = format!("# {} = {}", quoted(key), to_toml(given));
        let comment = format!("{given:ORIGIN_COLUMN$} # {origin}, no effect: {}\n", idle.reason);
        default.unwrap_or_default() + &comment
    }
}

fn line(key: &str, value: &str, origin: &Origin) -> String {
    let assignment = format!("{} = {value}", quoted(key));
    format!("{assignment:ORIGIN_COLUMN$} # {origin}\n")
}
