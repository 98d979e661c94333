//! Single values set from outside the files: `DREAM_TRAIN_*` variables and `--set` arguments.

use std::sync::Arc;

use super::{
    error::{ConfigError, ConfigErrorKind},
    file::{Layer, parse_assignment},
    key::{KeyPath, is_bare},
    source::{SourceKind, SourceText},
};
use crate::world::env::{PREFIX, PROCESS_VARIABLES};

/// Keys deeper than this are refused, so that no input makes the reader recurse without end.
const MOST_LEVELS: usize = 16;

/// Characters of a refused name that a message repeats.
const MOST_SHOWN: usize = 60;

/// Reads `DREAM_TRAIN_TABLE__KEY`; other variables are no business of the configuration.
pub(crate) fn from_variable(name: &str, value: &str) -> Option<Result<Layer, ConfigError>> {
    let levels = name.strip_prefix(PREFIX)?.to_ascii_lowercase();
    if PROCESS_VARIABLES.contains(&name) {
        return None;
    }
    let source = Arc::new(SourceText {
        kind: SourceKind::Environment,
        name: name.to_owned(),
        text: format!("{name}={value}"),
    });
    let key = levels.split("__").collect();
    let constraint =
        "a variable is named `DREAM_TRAIN_TABLE__KEY`, levels separated by two underscores";
    Some(assign(&source, &key, name.len(), constraint))
}

/// Reads `table.key=value`.
pub(crate) fn from_argument(argument: &str) -> Result<Layer, ConfigError> {
    let source = Arc::new(SourceText {
        kind: SourceKind::Set,
        name: "--set".into(),
        text: argument.to_owned(),
    });
    let constraint = "`--set` takes `table.key=value`";
    match argument.split_once('=') {
        Some((key, _)) => {
            let path = key.trim().split('.').collect();
            assign(&source, &path, key.len(), constraint)
        }
        None => Err(refuse(argument, constraint)),
    }
}

/// Parses `source.text`, in which an equals sign stands at `equals`.
fn assign(
    source: &Arc<SourceText>,
    key: &KeyPath,
    equals: usize,
    constraint: &'static str,
) -> Result<Layer, ConfigError> {
    if key.segments().len() > MOST_LEVELS || !key.iter().all(is_bare) {
        return Err(refuse(&source.text[..equals], constraint));
    }
    let text = &source.text;
    let blank = |text: &str| text.len() - text.trim_start().len();
    let start = equals + 1 + blank(&text[equals + 1..]);
    let end = text.trim_end().len().max(start);
    let key_start = blank(&text[..equals]);
    let key_end = text[..equals].trim_end().len();
    parse_assignment(source, key, key_start..key_end, start..end)
}

fn refuse(text: &str, constraint: &'static str) -> ConfigError {
    let text = text.chars().take(MOST_SHOWN).collect();
    ConfigErrorKind::Override { text, constraint }.nowhere()
}
