//! The text of one JSON line.

use std::{borrow::Cow, fmt, path::Path};

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use super::DataError;

/// Returns the string under `field` of a JSON object, reading past all other values without
/// building them.
pub(crate) fn text_of_line<'a>(
    line: &'a [u8],
    field: &str,
    path: &Path,
    number: u64,
) -> Result<Cow<'a, str>, DataError> {
    let json_error = |error: serde_json::Error| DataError::JsonLine {
        path: path.to_path_buf(),
        line: number,
        column: error.column(),
        reason: without_position(&error),
    };
    let mut deserializer = serde_json::Deserializer::from_slice(line);
    let found = FieldSeed { field }.deserialize(&mut deserializer).map_err(json_error)?;
    deserializer.end().map_err(json_error)?;
    found.text.ok_or_else(|| DataError::MissingField {
        path: path.to_path_buf(),
        line: number,
        field: field.into(),
        present: found.other_keys,
    })
}

/// Returns the message of an error without the place, which counts lines from the start of this
/// one.
fn without_position(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    message.strip_suffix(&place).unwrap_or(&message).to_owned()
}

/// What a line holds: the text if the field is there, and the names of the other fields.
struct Found<'a> {
    text: Option<Cow<'a, str>>,
    other_keys: String,
}

struct FieldSeed<'f> {
    field: &'f str,
}

impl<'de> DeserializeSeed<'de> for FieldSeed<'_> {
    type Value = Found<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for FieldSeed<'_> {
    type Value = Found<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a JSON object with a string under `{}`", self.field)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut text = None;
        let mut keys = Vec::new();
        while let Some(key) = map.next_key_seed(TextSeed)? {
            if key != self.field {
                map.next_value::<IgnoredAny>()?;
                keys.push(key);
            } else if text.is_none() {
                text = Some(map.next_value_seed(TextSeed)?);
            } else {
                return Err(A::Error::custom(format_args!("the key `{key}` appears twice")));
            }
        }
        // Most lines hold the text, and only an error shows the other names.
        let other_keys = if text.is_some() { String::new() } else { list(&keys) };
        Ok(Found { text, other_keys })
    }
}

fn list(keys: &[Cow<'_, str>]) -> String {
    if keys.is_empty() {
        return "none".into();
    }
    keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ")
}

/// Reads a string, borrowed from the line where it has no escapes.
struct TextSeed;

impl<'de> DeserializeSeed<'de> for TextSeed {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for TextSeed {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }
}
