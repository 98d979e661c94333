//! Strict reading of `config.json`: every field is read, known to be harmless, or an error.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::error::HfError;

/// Fields that say where a model comes from, how to generate with it or how to cache, and change no
/// forward pass.
pub const HARMLESS_FIELDS: [&str; 14] = [
    "_name_or_path",
    "architectures",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "id2label",
    "initializer_range",
    "label2id",
    "pad_token_id",
    "return_dict",
    "torch_dtype",
    "transformers_version",
    "unsloth_version",
    "use_cache",
];

/// Reads a table of fields and remembers which ones were asked for.
///
/// A field nobody asked for may change the mathematics: [`FieldReader::finish`] refuses it.
#[derive(Debug)]
pub struct FieldReader<'a> {
    prefix: String,
    table: &'a Map<String, Value>,
    read: BTreeSet<String>,
}

impl<'a> FieldReader<'a> {
    /// Starts reading a whole `config.json`.
    pub fn new(config: &'a Value) -> Result<Self, HfError> {
        Self::at(String::new(), "config.json", config)
    }

    fn at(prefix: String, name: &str, value: &'a Value) -> Result<Self, HfError> {
        let table =
            value.as_object().ok_or_else(|| HfError::NotATable { field: name.to_owned() })?;
        Ok(Self { prefix, table, read: BTreeSet::new() })
    }

    /// Reads a field that must be there.
    pub fn required<T: Deserialize<'a>>(&mut self, field: &str) -> Result<T, HfError> {
        self.optional(field)?.ok_or_else(|| HfError::MissingField { field: self.full(field) })
    }

    /// Reads a field that may be absent or null.
    pub fn optional<T: Deserialize<'a>>(&mut self, field: &str) -> Result<Option<T>, HfError> {
        let Some(value) = self.take(field) else {
            return Ok(None);
        };
        T::deserialize(value).map(Some).map_err(|source| HfError::FieldType {
            field: self.full(field),
            value: value.to_string(),
            source,
        })
    }

    /// Accepts a field only with the one value that is supported, or absent, or null.
    pub fn only(&mut self, field: &str, supported: &Value) -> Result<(), HfError> {
        match self.take(field) {
            Some(value) if value != supported => Err(HfError::FieldValue {
                field: self.full(field),
                value: value.to_string(),
                supported: supported.to_string(),
            }),
            _ => Ok(()),
        }
    }

    /// Reads a field that is itself a table; it has to be finished on its own.
    pub fn nested(&mut self, field: &str) -> Result<Option<Self>, HfError> {
        let full = self.full(field);
        let value = self.take(field);
        value.map(|value| Self::at(format!("{full}."), &full, value)).transpose()
    }

    /// Declares fields that may have any value, for one because they are in [`HARMLESS_FIELDS`].
    pub fn ignore(&mut self, fields: &[&str]) {
        self.read.extend(fields.iter().map(|&field| field.to_owned()));
    }

    /// Ends the reading.
    ///
    /// # Errors
    ///
    /// Fields that were neither read nor ignored; those that are null are absent.
    pub fn finish(self) -> Result<(), HfError> {
        let unread = self
            .table
            .iter()
            .filter(|(field, value)| !value.is_null() && !self.read.contains(*field));
        let fields: Vec<String> = unread.map(|(field, _)| self.full(field)).collect();
        if fields.is_empty() { Ok(()) } else { Err(HfError::UnknownFields { fields }) }
    }

    fn take(&mut self, field: &str) -> Option<&'a Value> {
        self.read.insert(field.to_owned());
        self.table.get(field).filter(|value| !value.is_null())
    }

    fn full(&self, field: &str) -> String {
        format!("{}{field}", self.prefix)
    }
}
