//! The JSON schema of a configuration, and what it says about a key.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::{Config, key::KeyPath};

/// Schemas of the `[model]` tables of recipes, by the name of the recipe.
pub type ModelSchemas = BTreeMap<String, Schema>;

/// Returns the JSON schema of a configuration file.
///
/// With `models`, the `[model]` table must be that of one of the recipes; without, only its `name`
/// is described.
pub fn file_schema(models: &ModelSchemas) -> Value {
    let mut schema = schema_of::<Config>();
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("dream-train configuration");
    if !models.is_empty() {
        let mut choices = Vec::new();
        for (name, model) in models {
            choices.push(named_model(name, model.as_value().clone(), &mut schema));
        }
        schema["properties"]["model"] = json!({
            "description": schema["properties"]["model"]["description"],
            "oneOf": choices,
        });
    }
    schema
}

/// Returns the schema of a recipe's table, for [`file_schema`] and the reference page.
pub fn model_schema<T: JsonSchema>() -> Schema {
    generator().into_root_schema_for::<T>()
}

fn generator() -> SchemaGenerator {
    // The parser's view: a field with a default need not be given.
    SchemaSettings::draft2020_12().for_deserialize().into_generator()
}

pub(crate) fn schema_of<T: JsonSchema>() -> Value {
    model_schema::<T>().to_value()
}

/// Adds the `name` to a recipe's table and moves its definitions to those of the file.
fn named_model(name: &str, mut model: Value, file: &mut Value) -> Value {
    if let Some(Value::Object(definitions)) = model.get_mut("$defs").map(Value::take) {
        let all = file["$defs"].as_object_mut();
        if let Some(all) = all {
            all.extend(definitions);
        }
    }
    if let Some(table) = model.as_object_mut() {
        table.remove("$defs");
        table.remove("$schema");
        let properties = table.entry("properties").or_insert_with(|| json!({}));
        properties["name"] = json!({ "const": name });
        let required = table.entry("required").or_insert_with(|| json!([]));
        if let Some(required) = required.as_array_mut() {
            required.push(json!("name"));
        }
    }
    model
}

/// Follows a reference to its definition; anything else is returned as it is.
pub(crate) fn resolve<'a>(root: &'a Value, node: &'a Value) -> &'a Value {
    let name = node["$ref"].as_str().and_then(|target| target.strip_prefix("#/$defs/"));
    name.map_or(node, |name| &root["$defs"][name])
}

/// Returns the alternatives of a node, references followed, without the one that stands for a
/// missing value.
pub(crate) fn alternatives<'a>(root: &'a Value, node: &'a Value) -> Vec<&'a Value> {
    let node = resolve(root, node);
    match node["anyOf"].as_array().or_else(|| node["oneOf"].as_array()) {
        Some(choices) => choices
            .iter()
            .filter(|choice| choice["type"] != "null")
            .flat_map(|choice| alternatives(root, choice))
            .collect(),
        None => vec![node],
    }
}

/// Finds the schema of the value at `path` below `node`.
pub(crate) fn find<'a>(root: &'a Value, node: &'a Value, path: &[String]) -> Option<&'a Value> {
    let Some((key, rest)) = path.split_first() else { return Some(node) };
    alternatives(root, node).into_iter().find_map(|choice| {
        let inner = choice["properties"].get(key).or_else(|| choice.get("items"));
        inner.and_then(|inner| find(root, inner, rest))
    })
}

/// Returns the keys of a table.
pub(crate) fn properties<'a>(root: &'a Value, node: &'a Value) -> Option<&'a Map<String, Value>> {
    let mut choices = alternatives(root, node).into_iter();
    choices.find_map(|choice| choice["properties"].as_object())
}

/// Lists every key of the file whose last part is `name`.
pub(crate) fn keys_named(name: &str) -> Vec<KeyPath> {
    let root = schema_of::<Config>();
    let mut found = Vec::new();
    collect_named(&root, &root, &KeyPath::root(), name, &mut found);
    found
}

fn collect_named(root: &Value, node: &Value, at: &KeyPath, name: &str, found: &mut Vec<KeyPath>) {
    for (key, inner) in properties(root, node).into_iter().flatten() {
        let path = at.child(key);
        if key == name {
            found.push(path.clone());
        }
        collect_named(root, inner, &path, name, found);
    }
}

/// Says in words which values a schema allows.
pub(crate) fn describe(root: &Value, node: &Value) -> String {
    let choices = alternatives(root, node);
    let names: Option<Vec<String>> = choices
        .iter()
        .map(|choice| match choice.get("const") {
            Some(name) => Some(vec![format!("`{name}`")]),
            None => {
                Some(choice["enum"].as_array()?.iter().map(|name| format!("`{name}`")).collect())
            }
        })
        .collect::<Option<Vec<Vec<String>>>>()
        .map(|names| names.concat());
    match names.as_deref() {
        Some([name]) => name.clone(),
        Some(names) => format!("one of {}", names.join(", ")),
        None => {
            let words: Vec<String> =
                choices.iter().map(|choice| describe_type(root, choice)).collect();
            words.join(" or ")
        }
    }
}

fn describe_type(root: &Value, node: &Value) -> String {
    if let Some(name) = node.get("const") {
        return format!("`{name}`");
    }
    match type_name(node) {
        "integer" => format!("an integer{}", describe_range(node)),
        "number" => format!("a number{}", describe_range(node)),
        "boolean" => "`true` or `false`".into(),
        "string" => "a string".into(),
        "object" => "a table".into(),
        "array" => match (node["minItems"].as_u64(), node["maxItems"].as_u64()) {
            (Some(low), Some(high)) if low == high => {
                format!("a list of {low}, each {}", describe(root, &node["items"]))
            }
            _ => format!("a list, each item {}", describe(root, &node["items"])),
        },
        _ => "a value".into(),
    }
}

/// Returns the type a schema names, without the alternative of a missing value.
pub(crate) fn type_name(node: &Value) -> &str {
    let named =
        node["type"].as_array().and_then(|names| names.iter().find(|name| **name != "null"));
    named.unwrap_or(&node["type"]).as_str().unwrap_or_default()
}

fn describe_range(node: &Value) -> String {
    let bound = |key: &str| node[key].as_f64();
    match (bound("minimum"), bound("maximum")) {
        (Some(low), Some(high)) => format!(" from {low} to {high}"),
        (Some(low), None) => format!(" of at least {low}"),
        (None, Some(high)) => format!(" of at most {high}"),
        (None, None) => String::new(),
    }
}
