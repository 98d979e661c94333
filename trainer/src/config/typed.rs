//! Reads a table into its type and turns everything that does not fit into errors with places.

use figment::value::{Num, Value};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use super::{
    advice::nearest_name,
    deserialize::{FaultKind, Typed},
    error::{ConfigError, ConfigErrorKind},
    key::{KeyPath, is_bare},
    other_tools,
    provenance::Provenance,
    schema,
};

/// Errors of one table after which the rest is not looked at.
const MOST_ERRORS: usize = 32;

/// Reads the table at `at`. A value that does not fit is reported, taken out, and the rest is read
/// again, so that one pass finds all of them.
pub(crate) fn parse_table<T: DeserializeOwned + JsonSchema>(
    table: &Value,
    at: &KeyPath,
    provenance: &Provenance,
    errors: &mut Vec<ConfigError>,
) -> Option<T> {
    let root = schema::schema_of::<T>();
    let reader = TableReader { root: &root, at, provenance };
    let known = errors.len();
    let mut rest = table.clone();
    let mut removed: Vec<Vec<String>> = Vec::new();
    loop {
        match T::deserialize(Typed(&rest)) {
            Ok(value) => {
                reader.check_ranges(&rest, &mut Vec::new(), errors);
                return (errors.len() == known).then_some(value);
            }
            Err(fault) => {
                let path = fault.path();
                let missing = match &fault.kind {
                    FaultKind::MissingKey { key } => {
                        Some([path.as_slice(), &[(*key).to_owned()]].concat())
                    }
                    _ => None,
                };
                if missing.as_ref().is_none_or(|missing| !removed.contains(missing)) {
                    errors.push(reader.error(&rest, &path, fault.kind));
                }
                let full = missing.is_some() || errors.len() >= known + MOST_ERRORS;
                if full || !remove(&mut rest, &path) {
                    return None;
                }
                removed.push(path);
            }
        }
    }
}

struct TableReader<'a> {
    root: &'a serde_json::Value,
    at: &'a KeyPath,
    provenance: &'a Provenance,
}

impl TableReader<'_> {
    fn error(&self, table: &Value, path: &[String], kind: FaultKind) -> ConfigError {
        let key = self.at.join(path);
        let place = self.provenance.nearest_place(&key);
        let value = get(table, path).map_or_else(String::new, brief);
        let kind = match kind {
            FaultKind::UnknownKey { allowed } => unknown_key(key, allowed.iter().copied()),
            FaultKind::MissingKey { key: missing } => {
                let expected =
                    schema::find(self.root, self.root, &[path, &[missing.to_owned()]].concat())
                        .map_or_else(|| "a value".into(), |node| schema::describe(self.root, node));
                ConfigErrorKind::Missing {
                    key: key.child(missing),
                    reason: format!("it must be {expected}"),
                }
            }
            FaultKind::Refused { reason } => ConfigErrorKind::Refused { key, value, reason },
            FaultKind::Unexpected { expected } => {
                let described = schema::find(self.root, self.root, path);
                let expected = described.map_or(expected, |node| schema::describe(self.root, node));
                ConfigErrorKind::WrongValue { key, value, expected }
            }
        };
        kind.at(place)
    }

    /// Checks numbers against the ranges of the schema, which serde does not know.
    fn check_ranges(&self, value: &Value, path: &mut Vec<String>, errors: &mut Vec<ConfigError>) {
        match value {
            Value::Num(_, number) => self.check_number(*number, path, errors),
            Value::Dict(_, table) => {
                for (key, inner) in table {
                    path.push(key.clone());
                    self.check_ranges(inner, path, errors);
                    path.pop();
                }
            }
            Value::Array(_, items) => {
                for (index, inner) in items.iter().enumerate() {
                    path.push(index.to_string());
                    self.check_ranges(inner, path, errors);
                    path.pop();
                }
            }
            _ => {}
        }
    }

    fn check_number(&self, number: Num, path: &[String], errors: &mut Vec<ConfigError>) {
        let Some(node) = schema::find(self.root, self.root, path) else { return };
        let Some(x) = approximate(number) else { return };
        let fits = x.is_finite()
            && schema::alternatives(self.root, node).iter().any(|choice| {
                choice["minimum"].as_f64().is_none_or(|low| x >= low)
                    && choice["maximum"].as_f64().is_none_or(|high| x <= high)
            });
        if !fits {
            let described = schema::describe(self.root, node);
            let expected = match described.strip_prefix("a number") {
                Some(range) if !x.is_finite() => format!("a finite number{range}"),
                _ => described,
            };
            let key = self.at.join(path);
            let place = self.provenance.nearest_place(&key);
            let value = show_number(number);
            errors.push(ConfigErrorKind::WrongValue { key, value, expected }.at(place));
        }
    }
}

/// Says that `key` is unknown and which key was probably meant, in this table or another.
pub(crate) fn unknown_key<'a>(
    key: KeyPath,
    allowed: impl Iterator<Item = &'a str>,
) -> ConfigErrorKind {
    let allowed: Vec<String> = allowed.map(str::to_owned).collect();
    let meant = other_tools::name_here(&key, &allowed);
    let nearest = match &meant {
        Some(meant) => meant.key.map(KeyPath::dotted),
        None => key.split_last().and_then(|(table, last)| {
            match nearest_name(last, allowed.iter().map(String::as_str)) {
                Some(near) => Some(table.child(near)),
                None => schema::keys_named(last).into_iter().find(|other| *other != key),
            }
        }),
    };
    ConfigErrorKind::UnknownKey {
        key,
        nearest,
        note: meant.map_or("", |meant| meant.note),
        allowed,
    }
}

/// Returns the value at `path`.
pub(crate) fn get<'a>(value: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, key| match value {
        Value::Dict(_, table) => table.get(key),
        Value::Array(_, items) => items.get(key.parse::<usize>().ok()?),
        _ => None,
    })
}

/// Tells whether two values are the same, whatever the width of their numbers.
pub(crate) fn same(first: &Value, second: &Value) -> bool {
    match (first, second) {
        (Value::Num(_, first), Value::Num(_, second)) => {
            approximate(*first) == approximate(*second)
        }
        _ => to_toml(first) == to_toml(second),
    }
}

/// Takes the value at `path` out of its table; an item takes its list with it, so that the others
/// keep their places.
fn remove(value: &mut Value, path: &[String]) -> bool {
    let Some((key, rest)) = path.split_first() else { return false };
    let Value::Dict(_, table) = value else { return false };
    match table.get_mut(key) {
        Some(inner @ Value::Dict(..)) if !rest.is_empty() => remove(inner, rest),
        Some(_) => table.remove(key).is_some(),
        None => false,
    }
}

/// Writes a value as TOML, cut where it gets long.
pub(crate) fn brief(value: &Value) -> String {
    const MOST: usize = 60;
    let text = to_toml(value);
    if text.chars().count() <= MOST {
        return text;
    }
    let start: String = text.chars().take(MOST).collect();
    format!("{start}...")
}

/// Writes a value as TOML on one line.
pub(crate) fn to_toml(value: &Value) -> String {
    match value {
        Value::String(_, text) => basic_string(text),
        Value::Char(_, letter) => basic_string(&letter.to_string()),
        Value::Bool(_, flag) => flag.to_string(),
        Value::Num(_, number) => show_number(*number),
        Value::Empty(..) => "{}".into(),
        Value::Array(_, items) => {
            format!("[{}]", items.iter().map(to_toml).collect::<Vec<_>>().join(", "))
        }
        Value::Dict(_, table) if table.is_empty() => "{}".into(),
        Value::Dict(_, table) => {
            let entry =
                |(key, value): (&String, &Value)| format!("{} = {}", quoted(key), to_toml(value));
            format!("{{ {} }}", table.iter().map(entry).collect::<Vec<_>>().join(", "))
        }
    }
}

/// Writes a key as TOML.
pub(crate) fn quoted(key: &str) -> String {
    if is_bare(key) { key.to_owned() } else { basic_string(key) }
}

/// Writes a string on one line. JSON's escapes are TOML's, but for one character that JSON leaves
/// alone.
fn basic_string(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007F")
}

fn show_number(number: Num) -> String {
    match (number.to_i128(), number.to_u128(), number.to_f64()) {
        (Some(n), ..) => n.to_string(),
        (_, Some(n), _) => n.to_string(),
        (.., Some(x)) if x.is_nan() => "nan".into(),
        // The shortest digits that read back to the same number, with an exponent where it is
        // shorter.
        (.., x) => format!("{:?}", x.unwrap_or_default()),
    }
}

fn approximate(number: Num) -> Option<f64> {
    let integer = number.to_i128().map(|n| n as f64);
    integer.or_else(|| number.to_u128().map(|n| n as f64)).or_else(|| number.to_f64())
}
