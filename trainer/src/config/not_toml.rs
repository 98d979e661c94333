//! Recognizes what is not TOML: YAML and JSON files, and words of Python.

use std::sync::Arc;

use super::{
    error::{ConfigError, ConfigErrorKind},
    key::is_bare,
    source::{Place, SourceText},
    typed::quoted,
};

/// Recognizes a text in another language, which is no TOML for sure: it has already failed to parse.
pub(crate) fn recognize(source: &Arc<SourceText>) -> Option<ConfigError> {
    let (start, line) = first_line(&source.text)?;
    let (language, first, translated) = if line.starts_with('{') {
        let (first, translated) = first_entry(&source.text);
        ("JSON", first, translated)
    } else {
        let line = yaml_entry(&source.text)?;
        ("YAML", line.to_owned(), from_yaml(line))
    };
    let span = start..start + line.len();
    let place = Place { source: source.clone(), key: span.clone(), value: span };
    Some(ConfigErrorKind::NotToml { language, first, translated }.at([place]))
}

/// Says what to write instead of the word at the beginning of `rest`, where Python or YAML has one
/// for a value.
pub(crate) fn foreign_word(rest: &str) -> Option<String> {
    let end = rest.find(|letter: char| !letter.is_ascii_alphanumeric()).unwrap_or(rest.len());
    let word = &rest[..end];
    match word {
        "None" | "null" | "nil" | "Null" | "NULL" => {
            Some(format!("TOML has no `{word}`: leave the key out"))
        }
        _ => boolean(word).map(|ours| format!("TOML writes `{ours}` instead of `{word}`")),
    }
}

/// Returns the boolean that a word of Python or YAML stands for.
fn boolean(word: &str) -> Option<bool> {
    match word {
        "True" | "TRUE" | "yes" | "Yes" | "on" | "On" => Some(true),
        "False" | "FALSE" | "no" | "No" | "off" | "Off" => Some(false),
        _ => None,
    }
}

/// Returns the first line that says something, and where it begins.
fn first_line(text: &str) -> Option<(usize, &str)> {
    lines(text).next()
}

fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.split_inclusive('\n')
        .scan(0, |next, line| {
            let start = *next + (line.len() - line.trim_start().len());
            *next += line.len();
            Some((start, line.trim()))
        })
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

/// Returns the first `key: value` of a YAML text; nothing if the text does not begin like YAML.
fn yaml_entry(text: &str) -> Option<&str> {
    let mut lines = lines(text)
        .map(|(_, line)| line)
        .filter(|line| *line != "---" && !line.starts_with("%YAML"));
    let line = lines.next()?;
    let (key, value) = line.trim_start_matches("- ").split_once(':')?;
    let is_entry =
        is_bare(key.trim_matches(['"', '\''])) && (value.is_empty() || value.starts_with(' '));
    is_entry.then_some(line)
}

/// Writes `key: value` as TOML, if it is simple.
fn from_yaml(line: &str) -> Option<String> {
    let (key, value) = line.split_once(':')?;
    let key = key.trim_matches(['"', '\'']);
    if !is_bare(key) {
        return None;
    }
    let value = value.split(" #").next().unwrap_or_default().trim();
    if value.is_empty() {
        return Some(format!("[{key}]"));
    }
    let is_number = value.parse::<f64>().is_ok()
        && value.starts_with(|first: char| first.is_ascii_digit() || first == '-');
    if is_number || value.starts_with('"') || value == "true" || value == "false" {
        return Some(format!("{key} = {value}"));
    }
    if let Some(flag) = boolean(value) {
        return Some(format!("{key} = {flag}"));
    }
    let is_plain = value.chars().all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c));
    let is_missing = matches!(value, "null" | "Null" | "~" | "None");
    (is_plain && !is_missing).then(|| format!("{key} = \"{value}\""))
}

/// Returns the first entry of a JSON text and the same as TOML.
fn first_entry(text: &str) -> (String, Option<String>) {
    use serde_json::Value;
    let entry = serde_json::from_str::<serde_json::Map<String, Value>>(text).ok();
    let Some((key, value)) = entry.and_then(|entries| entries.into_iter().next()) else {
        return ("{".to_owned(), None);
    };
    let shown = serde_json::Value::from(key.as_str());
    match value {
        Value::Object(_) => (format!("{shown}: {{"), Some(format!("[{}]", quoted(&key)))),
        Value::Null | Value::Array(_) => (format!("{shown}: .."), None),
        scalar => (format!("{shown}: {scalar}"), Some(format!("{} = {scalar}", quoted(&key)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn simple_lines_of_yaml_are_translated() {
        let rows = [
            ("training:", Some("[training]")),
            ("lr: 1e-4", Some("lr = 1e-4")),
            ("bf16: True  # mixed", Some("bf16 = true")),
            ("optim: adamw_torch", Some("optim = \"adamw_torch\"")),
            ("name: \"two words\"", Some("name = \"two words\"")),
            ("resume: null", None),
            ("name: two words", None),
            ("args: {a: 1}", None),
        ];
        for (line, expected) in rows {
            assert_eq!(from_yaml(line).as_deref(), expected, "{line}");
        }
    }
}
