//! Turns TOML text into values whose places are known.

use std::{collections::BTreeMap, io, ops::Range, path::Path, sync::Arc};

use figment::value::{Dict, Num, Tag, Value};
use toml::de::{DeTable, DeValue};

use super::{
    error::{ConfigError, ConfigErrorKind},
    key::KeyPath,
    not_toml,
    provenance::Origin,
    source::{Place, SourceKind, SourceText},
};
use crate::{files::read_regular, world::path_with_home};

/// Values of one layer with their origins.
#[derive(Debug, Default)]
pub(crate) struct Layer {
    pub(crate) values: Dict,
    pub(crate) origins: BTreeMap<KeyPath, Origin>,
}

impl figment::Provider for Layer {
    fn metadata(&self) -> figment::Metadata {
        figment::Metadata::named("layer")
    }

    fn data(&self) -> Result<figment::value::Map<figment::Profile, Dict>, figment::Error> {
        Ok(figment::Profile::Default.collect(self.values.clone()))
    }
}

impl Layer {
    /// Reads the TOML file at `path`.
    pub(crate) fn read_file(path: &Path) -> Result<Self, Vec<ConfigError>> {
        let name = path.display().to_string();
        let text = read_text(&path_with_home(path)).map_err(|source| {
            vec![ConfigErrorKind::ReadFile { path: path.to_owned(), source }.nowhere()]
        })?;
        Self::parse(SourceText { kind: SourceKind::File, name, text })
    }

    /// Parses a whole TOML document.
    pub(crate) fn parse(source: SourceText) -> Result<Self, Vec<ConfigError>> {
        let source = Arc::new(source);
        let (table, errors) = DeTable::parse_recoverable(&source.text);
        if !errors.is_empty() {
            if let Some(error) = not_toml::recognize(&source) {
                return Err(vec![error]);
            }
            return Err(errors.iter().map(|error| syntax_error(error, &source, 0)).collect());
        }
        let mut reader = Reader { source: &source, shift: 0, layer: Self::default() };
        let values =
            reader.table(table.get_ref(), &KeyPath::root()).map_err(|error| vec![error])?;
        Ok(Self { values, ..reader.layer })
    }

    /// Takes out the value at `key`, if there is one.
    pub(crate) fn remove(&mut self, key: &KeyPath) {
        let Some((last, parents)) = key.segments().split_last() else { return };
        let mut table = &mut self.values;
        for parent in parents {
            let Some(Value::Dict(_, inner)) = table.get_mut(parent) else { return };
            table = inner;
        }
        table.remove(last);
        self.origins.remove(key);
    }

    /// Puts one value at `key`, with the tables around it.
    pub(crate) fn insert(&mut self, key: &KeyPath, value: Value, origin: &Origin) {
        let keys = key.segments();
        for depth in 1..=keys.len() {
            self.origins.insert(KeyPath::root().join(&keys[..depth]), origin.clone());
        }
        if let Some((last, parents)) = keys.split_last() {
            let mut table = &mut self.values;
            for parent in parents {
                let inner = table.entry(parent.clone()).or_insert_with(|| Value::from(Dict::new()));
                if !matches!(inner, Value::Dict(..)) {
                    *inner = Value::from(Dict::new());
                }
                let Value::Dict(_, inner) = inner else { return };
                table = inner;
            }
            table.insert(last.clone(), value);
        }
    }
}

/// Most bytes of a configuration file.
const MOST_BYTES: u64 = 4 << 20;

fn read_text(path: &Path) -> io::Result<String> {
    let bytes = read_regular(path, MOST_BYTES)?;
    let of_utf16 = [[0xff, 0xfe], [0xfe, 0xff]].iter().any(|mark| bytes.starts_with(mark));
    String::from_utf8(bytes).map_err(|error| {
        let reason =
            if of_utf16 { "it is UTF-16; save it as UTF-8".into() } else { error.to_string() };
        io::Error::new(io::ErrorKind::InvalidData, reason)
    })
}

/// Parses `source.text[value]` as a TOML value for `key`; what TOML does not know, a bare word, is
/// a string.
pub(crate) fn parse_assignment(
    source: &Arc<SourceText>,
    key: &KeyPath,
    key_span: Range<usize>,
    value_span: Range<usize>,
) -> Result<Layer, ConfigError> {
    let shift = value_span.start;
    let text = &source.text[value_span.clone()];
    let place = Place { source: source.clone(), key: key_span, value: value_span };
    let mut reader = Reader { source, shift, layer: Layer::default() };
    let value = match DeValue::parse(text) {
        Ok(value) => reader.value(value.get_ref(), key, &place)?,
        Err(error) if text.starts_with(['[', '{', '"', '\'']) => {
            return Err(syntax_error(&error, source, shift));
        }
        Err(_) => Value::from(text),
    };
    let mut layer = reader.layer;
    layer.insert(key, value, &Origin::Written(place));
    Ok(layer)
}

fn syntax_error(error: &toml::de::Error, source: &Arc<SourceText>, shift: usize) -> ConfigError {
    let text = &source.text;
    let inside = |offset: usize| (offset + shift).min(text.len());
    let span = error.span().map_or(0..0, |span| inside(span.start)..inside(span.end));
    let rest = text.get(span.start..).and_then(|rest| rest.lines().next()).unwrap_or_default();
    let before = text.get(..span.start).unwrap_or_default();
    // The parser takes the blank for a string without quotes.
    let message = if rest.trim().is_empty() && before.trim_end_matches([' ', '\t']).ends_with('=') {
        "a value is missing after `=`".to_owned()
    } else if let Some(message) = not_toml::foreign_word(rest) {
        message
    } else {
        error.message().lines().collect::<Vec<_>>().join(", ")
    };
    let place = Place { source: source.clone(), key: span.clone(), value: span };
    ConfigErrorKind::Syntax { message }.at([place])
}

/// Converts parsed TOML and notes every place.
struct Reader<'a> {
    source: &'a Arc<SourceText>,
    /// Where the parsed part begins in the text.
    shift: usize,
    layer: Layer,
}

impl Reader<'_> {
    fn table(&mut self, table: &DeTable<'_>, at: &KeyPath) -> Result<Dict, ConfigError> {
        let mut values = Dict::new();
        for (key, value) in table {
            let path = at.child(key.get_ref());
            let place = Place {
                source: self.source.clone(),
                key: self.shifted(key.span()),
                value: self.shifted(value.span()),
            };
            let converted = self.value(value.get_ref(), &path, &place)?;
            self.layer.origins.insert(path, Origin::Written(place));
            values.insert(key.get_ref().to_string(), converted);
        }
        Ok(values)
    }

    fn value(
        &mut self,
        value: &DeValue<'_>,
        at: &KeyPath,
        place: &Place,
    ) -> Result<Value, ConfigError> {
        let number = |number: Num| Value::Num(Tag::Default, number);
        Ok(match value {
            DeValue::String(text) => Value::from(text.as_ref()),
            DeValue::Boolean(flag) => Value::from(*flag),
            DeValue::Datetime(moment) => Value::from(moment.to_string()),
            DeValue::Integer(digits) => {
                match i64::from_str_radix(digits.as_str(), digits.radix()) {
                    Ok(n) => number(Num::I64(n)),
                    Err(_) => return Err(too_large(at, digits.as_str(), place)),
                }
            }
            DeValue::Float(digits) => match digits.as_str().parse() {
                Ok(x) => number(Num::F64(x)),
                Err(_) => return Err(too_large(at, digits.as_str(), place)),
            },
            DeValue::Table(table) => Value::from(self.table(table, at)?),
            DeValue::Array(items) => {
                let mut values = Vec::with_capacity(items.len());
                for (index, item) in items.iter().enumerate() {
                    let span = self.shifted(item.span());
                    let place =
                        Place { source: self.source.clone(), key: span.clone(), value: span };
                    let path = at.child(&index.to_string());
                    values.push(self.value(item.get_ref(), &path, &place)?);
                    self.layer.origins.insert(path, Origin::Written(place));
                }
                Value::from(values)
            }
        })
    }

    fn shifted(&self, span: Range<usize>) -> Range<usize> {
        span.start + self.shift..span.end + self.shift
    }
}

fn too_large(key: &KeyPath, digits: &str, place: &Place) -> ConfigError {
    ConfigErrorKind::WrongValue {
        key: key.clone(),
        value: digits.to_owned(),
        expected: "a number that fits in 64 bits".into(),
    }
    .at([place.clone()])
}
