//! Compares two tables of values key by key and shows all differences at once. Pure.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value};

/// Longest value that a table shows in full, in characters.
const WIDEST: usize = 60;

/// A key that has one value in a checkpoint and another in the run.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// Dotted key.
    pub key: String,
    /// Its value in the checkpoint, if it has one there.
    pub saved: Option<Value>,
    /// Its value in the run, if it has one there.
    pub now: Option<Value>,
}

/// Differences, in the order of the keys; shown as a table of three columns.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Differences(pub Vec<Difference>);

impl Differences {
    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether `key` is among them.
    pub fn contains(&self, key: &str) -> bool {
        self.0.iter().any(|difference| difference.key == key)
    }
}

/// Returns the keys on which two tables do not agree, in the order of `now`, then those that only
/// `saved` has. A key without a value and one that is null or an empty list are the same.
pub(crate) fn compare(saved: &Value, now: &Value) -> Vec<Difference> {
    let (saved, now) = (leaves(saved), leaves(now));
    let index = |list: &[(String, Value)]| list.iter().cloned().collect::<BTreeMap<_, _>>();
    let (saved_by_key, now_by_key) = (index(&saved), index(&now));
    let only_saved = saved.iter().filter(|(key, _)| !now_by_key.contains_key(key));
    let keys = now.iter().chain(only_saved).map(|(key, _)| key);
    let difference = |key: &String| Difference {
        key: key.clone(),
        saved: saved_by_key.get(key).cloned(),
        now: now_by_key.get(key).cloned(),
    };
    keys.map(difference).filter(|found| !same(found.saved.as_ref(), found.now.as_ref())).collect()
}

/// Puts a table under a name, so that its keys begin with it.
pub(crate) fn under(name: &str, table: &Value) -> Value {
    Value::Object(Map::from_iter([(name.to_owned(), table.clone())]))
}

/// Lists the values of a table with their dotted keys; items of a list of tables are numbered.
pub(crate) fn leaves(table: &Value) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    collect(String::new(), table, &mut found);
    found
}

fn collect(key: String, value: &Value, found: &mut Vec<(String, Value)>) {
    match value {
        Value::Null => {}
        Value::Object(table) => {
            for (name, inner) in table {
                let dot = if key.is_empty() { "" } else { "." };
                collect(format!("{key}{dot}{name}"), inner, found);
            }
        }
        Value::Array(items) if items.is_empty() => {}
        Value::Array(items) if items.iter().any(Value::is_object) => {
            for (index, inner) in items.iter().enumerate() {
                collect(format!("{key}[{index}]"), inner, found);
            }
        }
        leaf => found.push((key, leaf.clone())),
    }
}

/// Compares numbers by what they are, not by how they are written: 1 is 1.0.
fn same(saved: Option<&Value>, now: Option<&Value>) -> bool {
    match (saved, now) {
        (Some(Value::Number(a)), Some(Value::Number(b))) if a.is_f64() || b.is_f64() => {
            a.as_f64() == b.as_f64()
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(Some(a), Some(b)))
        }
        (saved, now) => saved == now,
    }
}

impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: &Option<Value>| value.as_ref().map_or_else(|| "-".into(), shortened);
        let row = |difference: &Difference| {
            [difference.key.clone(), shown(&difference.saved), shown(&difference.now)]
        };
        let header = ["key", "saved", "now"].map(String::from);
        let rows: Vec<_> = std::iter::once(header).chain(self.0.iter().map(row)).collect();
        let width =
            |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let (keys, values) = (width(0), width(1));
        for (index, [key, saved, now]) in rows.iter().enumerate() {
            let end = if index == 0 { "" } else { "\n" };
            write!(f, "{end}  {key:keys$} | {saved:values$} | {now}")?;
        }
        Ok(())
    }
}

fn shortened(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(WIDEST) {
        Some((end, _)) => format!("{}..", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_differ_by_value_and_not_by_spelling() {
        let rows = [
            (json!({ "a": 1 }), json!({ "a": 1.0 }), vec![]),
            (json!({ "a": [1, 2] }), json!({ "a": [1.0, 2.0] }), vec![]),
            (json!({ "a": null, "b": [] }), json!({}), vec![]),
            (json!({ "a": { "b": 1, "c": 2 } }), json!({ "a": { "c": 3 } }), vec!["a.c", "a.b"]),
            (json!({ "g": [{ "p": "x" }] }), json!({ "g": [] }), vec!["g[0].p"]),
            (
                json!({ "g": [{ "p": "x" }] }),
                json!({ "g": [{ "p": "y" }, { "p": "x" }] }),
                vec!["g[0].p", "g[1].p"],
            ),
            (json!({ "a": true }), json!({ "a": "true" }), vec!["a"]),
            (json!({ "a": [1] }), json!({ "a": [1, 1] }), vec!["a"]),
        ];
        for (saved, now, expected) in rows {
            let found = compare(&saved, &now);
            let keys: Vec<_> = found.iter().map(|difference| difference.key.as_str()).collect();
            assert_eq!(keys, expected, "{saved} {now}");
        }
    }
}
