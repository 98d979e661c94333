//! The `[model]` table: its `name` chooses the recipe, which owns the other keys.

use figment::value::{Dict, Value};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::DeserializeOwned;

use super::{
    error::{ConfigError, ConfigErrorKind, ConfigErrors},
    key::KeyPath,
    provenance::Provenance,
    typed::{self, brief},
};

/// Holds the `[model]` table until the recipe reads it.
#[derive(Debug, Clone)]
pub struct ModelTable {
    name: String,
    values: Dict,
    provenance: Provenance,
}

impl ModelTable {
    /// Takes the table apart; its `name` must be there.
    pub(crate) fn read(
        table: Option<&Value>,
        provenance: &Provenance,
        errors: &mut Vec<ConfigError>,
    ) -> Option<Self> {
        let at = KeyPath::dotted("model");
        let values = match table {
            None => Dict::new(),
            Some(Value::Dict(_, values)) => values.clone(),
            Some(other) => {
                let (value, expected) = (brief(other), "a table".into());
                let place = provenance.nearest_place(&at);
                errors.push(ConfigErrorKind::WrongValue { key: at, value, expected }.at(place));
                return None;
            }
        };
        let key = at.child("name");
        let place = provenance.nearest_place(&key);
        let error = match values.get("name") {
            Some(Value::String(_, name)) => {
                let name = name.clone();
                return Some(Self { name, values, provenance: provenance.clone() });
            }
            Some(other) => ConfigErrorKind::WrongValue {
                key,
                value: brief(other),
                expected: "a string".into(),
            },
            None => ConfigErrorKind::Missing { key, reason: "it chooses the recipe".into() },
        };
        errors.push(error.at(place));
        None
    }

    /// Returns the name of the recipe.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads the recipe's keys, as strictly as the trainer's own.
    ///
    /// # Errors
    /// Returns every unknown key, wrong type and value outside the ranges of the schema of `T`,
    /// each with its place.
    pub fn parse<T: DeserializeOwned + JsonSchema>(&self) -> Result<T, ConfigErrors> {
        let mut own = self.values.clone();
        own.remove("name");
        let mut errors = Vec::new();
        let at = KeyPath::dotted("model");
        let parsed = typed::parse_table(&Value::from(own), &at, &self.provenance, &mut errors);
        parsed.ok_or_else(|| ConfigErrors::found(errors))
    }

    /// Says that the value of one of the recipe's keys cannot be, and why.
    pub fn refuse(&self, key: &str, reason: impl Into<String>) -> ConfigError {
        let path = KeyPath::dotted("model").join(KeyPath::dotted(key).segments());
        refuse(path, &Value::from(self.values.clone()), 1, &self.provenance, reason.into())
    }

    /// Says that no recipe has this name.
    pub fn unknown_name(&self, recipes: &[&str]) -> ConfigError {
        let names: Vec<String> = recipes.iter().map(|name| format!("`\"{name}\"`")).collect();
        let key = KeyPath::dotted("model.name");
        let place = self.provenance.nearest_place(&key);
        let value = brief(&Value::from(self.name.as_str()));
        ConfigErrorKind::WrongValue { key, value, expected: format!("one of {}", names.join(", ")) }
            .at(place)
    }

    /// Returns the values, the name among them, by key.
    pub(crate) fn values(&self) -> &Dict {
        &self.values
    }
}

/// Refuses the value at `key`, which `values` holds below its first `depth` keys.
pub(crate) fn refuse(
    key: KeyPath,
    values: &Value,
    depth: usize,
    provenance: &Provenance,
    reason: String,
) -> ConfigError {
    let place = provenance.nearest_place(&key);
    let found = typed::get(values, key.segments().get(depth..).unwrap_or_default());
    let value = found.map_or_else(|| "not given".into(), brief);
    ConfigErrorKind::Refused { key, value, reason }.at(place)
}

impl JsonSchema for ModelTable {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ModelTable".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "properties": {
                "name": { "type": "string", "description": "Recipe that builds and trains the model." },
            },
            "required": ["name"],
        })
    }
}
