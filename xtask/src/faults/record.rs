//! What a run wrote: rows of `metrics.jsonl`, tensors of its last checkpoint.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::path::Path;

use serde_json::Value;

use super::failure::{Failure, Fault, broken};

/// Values of a row that do not depend on the clock.
const NUMBERS: [&str; 10] = [
    "loss",
    "grad_norm",
    "lr",
    "tokens",
    "total_tokens",
    "epoch",
    "skipped",
    "loss_scale",
    "val_loss",
    "val_tokens",
];

/// Where a row belongs: its step, and whether it is of a validation.
type Place = (u64, bool);

/// The rows of a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Rows(BTreeMap<Place, BTreeMap<&'static str, Value>>);

/// How close numbers have to be to those of the undisturbed run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Numbers {
    /// The same bits.
    Same,
    /// Losses within this part of their value.
    Near(f64),
    /// Finite.
    Any,
}

impl Rows {
    /// Reads the rows; each is a whole line of JSON, none comes twice, steps only grow.
    pub(super) fn read(run: &Path) -> Result<Self, Failure> {
        let path = run.join("metrics.jsonl");
        let bytes = fs::read(&path).map_err(|error| Fault::Rows.with(error.to_string()))?;
        let text = String::from_utf8_lossy(&bytes);
        let mut rows = Self::default();
        for (nth, line) in text.lines().enumerate() {
            let wrong = |what: &str| Fault::Rows.with(format!("line {}: {what}: {line}", nth + 1));
            let row: Value = serde_json::from_str(line).map_err(|_| wrong("no JSON"))?;
            let step = row["step"].as_u64().ok_or_else(|| wrong("no step"))?;
            if rows.0.last_key_value().is_some_and(|(last, _)| last.0 > step) {
                return Err(wrong("a step that goes back"));
            }
            let numbers = NUMBERS.iter().filter_map(|key| Some((*key, row.get(*key)?.clone())));
            let place = (step, row.get("val_loss").is_some());
            if rows.0.insert(place, numbers.collect()).is_some() {
                return Err(wrong("a second row of its step"));
            }
        }
        Ok(rows)
    }

    /// Returns the number of rows.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Fails unless these are the rows of `reference`; rows up to the step `spared` may be missing
    /// and may differ.
    pub(super) fn check(
        &self,
        reference: &Self,
        numbers: Numbers,
        spared: u64,
    ) -> Result<(), Failure> {
        for (place, expected) in reference.0.iter().filter(|(place, _)| place.0 > spared) {
            let Some(found) = self.0.get(place) else {
                return Err(Fault::Rows.with(format!("{} is missing", name(*place))));
            };
            let is_close = match numbers {
                Numbers::Same => found == expected,
                Numbers::Near(part) => losses(found, expected)
                    .is_some_and(|(found, expected)| (found - expected).abs() <= part * expected),
                Numbers::Any => losses(found, expected).is_some_and(|(found, _)| found.is_finite()),
            };
            if !is_close {
                let text = format!("{}: {found:?}, expected {expected:?}", name(*place));
                return Err(Fault::Bits.with(text));
            }
        }
        match self.0.keys().find(|place| place.0 > spared && !reference.0.contains_key(place)) {
            Some(place) => Err(Fault::Rows.with(format!("{} is too much", name(*place)))),
            None => Ok(()),
        }
    }
}

fn name((step, is_validation): Place) -> String {
    format!("the row of {}step {step}", if is_validation { "the validation at " } else { "" })
}

fn losses(found: &BTreeMap<&str, Value>, expected: &BTreeMap<&str, Value>) -> Option<(f64, f64)> {
    let key = if expected.contains_key("val_loss") { "val_loss" } else { "loss" };
    Some((found.get(key)?.as_f64()?, expected.get(key)?.as_f64()?))
}

/// Returns a number for the content of each tensor file of a checkpoint.
pub(super) fn tensors(run: &Path, step: u64) -> Result<BTreeMap<String, u64>, Failure> {
    let folder = run.join("checkpoints").join(format!("step-{step:08}"));
    let entries = fs::read_dir(&folder)
        .map_err(|error| Fault::Rows.with(format!("{}: {error}", folder.display())))?;
    let mut found = BTreeMap::new();
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".safetensors") {
            let mut hasher = DefaultHasher::new();
            hasher.write(&fs::read(entry.path()).map_err(broken(&name))?);
            found.insert(name, hasher.finish());
        }
    }
    Ok(found)
}

/// Returns the steps of a run's complete checkpoints, oldest first.
pub(super) fn saved_steps(run: &Path) -> Vec<u64> {
    let entries = fs::read_dir(run.join("checkpoints")).into_iter().flatten().flatten();
    let complete = entries.filter(|entry| entry.path().join("manifest.json").exists());
    let mut steps: Vec<u64> = complete
        .filter_map(|entry| entry.file_name().to_str()?.strip_prefix("step-")?.parse().ok())
        .collect();
    steps.sort_unstable();
    steps
}
