//! Generated pages: the reference is not stale and the schema accepts what the loader accepts.

use dream_trainer::config::{ModelSchemas, file_schema, reference_page};

const PAGE: &str = "../docs/configuration.md";

/// Drops the sections of recipes, which this crate does not know.
fn without_recipes(page: &str) -> String {
    let is_own =
        |section: &&str| !section.starts_with("`[model") || section.starts_with("`[model]`\n");
    page.split("\n## ").filter(is_own).collect::<Vec<_>>().join("\n## ")
}

#[test]
fn the_reference_page_is_fresh() {
    let page = reference_page(&ModelSchemas::new());
    let stored = std::fs::read_to_string(PAGE).unwrap_or_default();
    assert!(
        without_recipes(&stored) == page,
        "docs/configuration.md is stale: run `dream-train config docs --output docs/configuration.md`"
    );
}

#[test]
fn every_key_is_documented() {
    let schema = file_schema(&ModelSchemas::new());
    let mut undocumented = Vec::new();
    let tables = schema["$defs"].as_object().unwrap();
    for (name, table) in tables {
        for (key, property) in table["properties"].as_object().into_iter().flatten() {
            if property["description"].as_str().is_none_or(str::is_empty) {
                undocumented.push(format!("{name}.{key}"));
            }
        }
    }
    assert_eq!(undocumented, Vec::<String>::new());
}

#[test]
fn tables_refuse_unknown_keys_in_the_schema_too() {
    let schema = file_schema(&ModelSchemas::new());
    assert_eq!(schema["additionalProperties"], false);
    for (name, table) in schema["$defs"].as_object().unwrap() {
        let is_strict = table["type"] != "object"
            || table["additionalProperties"] == false
            || name == "ModelTable";
        assert!(is_strict, "{name}");
    }
    assert_eq!(schema["required"], serde_json::json!(["model"]));
}
