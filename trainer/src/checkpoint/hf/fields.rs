//! Strict reading of `config.json`: every field is read, known to be harmless, or an error.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::error::HfError;

/// Fields that say where a model comes from, how to generate with it, what else to return or how to
/// cache, and change no number of the forward pass.
pub const HARMLESS_FIELDS: [&str; 61] = [
    "architectures",
    "auto_map",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "cache_implementation",
    "chunk_size_feed_forward",
    "classifier_dropout",
    "custom_pipelines",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "eos_token_id",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "id2label",
    "initializer_range",
    "is_decoder",
    "label2id",
    "length_penalty",
    "max_length",
    "max_new_tokens",
    "min_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "pad_token_id",
    "prefix",
    "problem_type",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "typical_p",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
    "use_return_dict",
];

/// Reads a table of fields and remembers which ones were asked for.
///
/// A field nobody asked for may change the mathematics: [`FieldReader::finish`] refuses it.
#[derive(Debug)]
pub struct FieldReader<'a> {
    prefix: String,
    table: &'a Map<String, Value>,
    read: BTreeSet<String>,
    prefixes: Vec<String>,
}

impl<'a> FieldReader<'a> {
    /// Starts reading a whole `config.json`.
    pub fn new(config: &'a Value) -> Result<Self, HfError> {
        Self::at(String::new(), "config.json", config)
    }

    fn at(prefix: String, name: &str, value: &'a Value) -> Result<Self, HfError> {
        let table =
            value.as_object().ok_or_else(|| HfError::NotATable { field: name.to_owned() })?;
        Ok(Self { prefix, table, read: BTreeSet::new(), prefixes: Vec::new() })
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
        self.one_of(field, std::slice::from_ref(supported))
    }

    /// Accepts a field only with one of the values that are supported, or absent, or null.
    pub fn one_of(&mut self, field: &str, supported: &[Value]) -> Result<(), HfError> {
        match self.take(field) {
            Some(value) if !supported.contains(value) => {
                let supported: Vec<String> = supported.iter().map(Value::to_string).collect();
                Err(HfError::FieldValue {
                    field: self.full(field),
                    value: value.to_string(),
                    supported: supported.join(" or "),
                })
            }
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

    /// Declares that fields whose names begin like this may have any value.
    pub fn ignore_prefixed(&mut self, prefixes: &[&str]) {
        self.prefixes.extend(prefixes.iter().map(|&prefix| prefix.to_owned()));
    }

    /// Ends the reading.
    ///
    /// # Errors
    ///
    /// Fields that were neither read nor ignored, with their values; those that are null are absent.
    pub fn finish(self) -> Result<(), HfError> {
        let is_ignored = |field: &str| {
            self.read.contains(field)
                || self.prefixes.iter().any(|prefix| field.starts_with(prefix))
        };
        let unread =
            self.table.iter().filter(|(field, value)| !value.is_null() && !is_ignored(field));
        let fields: Vec<(String, String)> =
            unread.map(|(field, value)| (self.full(field), brief(value))).collect();
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

/// Writes a value, cut where it gets long.
fn brief(value: &Value) -> String {
    const MOST: usize = 60;
    let text = value.to_string();
    if text.chars().count() <= MOST {
        return text;
    }
    text.chars().take(MOST).chain("...".chars()).collect()
}
