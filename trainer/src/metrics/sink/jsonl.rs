//! `metrics.jsonl`: one JSON object a line, numbers at full precision.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value};

use super::appender::Appender;
use super::rows::{SetAside, keep_all, keep_up_to};
use super::{MetricSink, SinkError};
use crate::metrics::{StepInfo, ValidationInfo};

/// Appends every step and validation to `metrics.jsonl` in a run's folder.
///
/// A step is `{"step":1,"loss":..,"grad_norm":..,"lr":..,"tokens":..,"tokens_per_second":..,..}`, a
/// validation `{"step":1,"val_loss":..,..}`. Numbers are the shortest text that reads back as the
/// same `f64`. JSON has no word for what is not finite: such a value is `null`, and the row says which
/// it was: `"loss":null,"nonfinite":{"loss":"NaN"}`; the others are `"inf"` and `"-inf"`.
///
/// Continued after step s, the file keeps the rows up to s, and its other lines move to files beside
/// it: later rows to `metrics.superseded.1.jsonl`, lines that are no rows to
/// `metrics.damaged.1.jsonl`. An interrupted and continued run thus leaves the rows of an
/// uninterrupted one. A start from step 0 keeps the whole file as `metrics.1.jsonl`.
#[derive(Debug, Default)]
pub struct JsonlSink {
    file: Option<Appender>,
    annotations: Vec<(String, f64)>,
}

impl JsonlSink {
    /// Name of the file in a run's folder.
    pub const FILE_NAME: &'static str = "metrics.jsonl";

    /// Returns a sink that is not open yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn append(&mut self, row: Row) -> Result<(), SinkError> {
        let file = self.file.as_mut().ok_or(SinkError::NotOpen { sink: "jsonl" })?;
        let line = row.into_line();
        match file.append(line.as_bytes()) {
            Err(SinkError::Removed { path }) => {
                tracing::warn!(
                    path = %path.display(),
                    "the metrics file was removed or replaced; rows go on in what has its name now"
                );
                self.file.insert(Appender::open(path)?).append(line.as_bytes())
            }
            done => done,
        }
    }
}

impl MetricSink for JsonlSink {
    fn name(&self) -> &'static str {
        "jsonl"
    }

    fn open(&mut self, directory: &Path, start_step: u64) -> Result<(), SinkError> {
        let path = directory.join(Self::FILE_NAME);
        let failed = |source| SinkError::Open { path: path.clone(), source };
        fs::create_dir_all(directory).map_err(failed)?;
        if start_step > 0 {
            tell(&keep_up_to(&path, start_step).map_err(failed)?, start_step);
        } else if let Some(kept) = keep_all(&path).map_err(failed)? {
            tracing::info!(kept = %kept.display(), "the rows of an earlier start are kept");
        }
        self.file = Some(Appender::open(path)?);
        Ok(())
    }

    fn annotate(&mut self, tag: &str, value: f64) {
        self.annotations.push((tag.to_owned(), value));
    }

    fn step(&mut self, info: &StepInfo) -> Result<(), SinkError> {
        let mut row = step_row(info);
        for (tag, value) in self.annotations.drain(..) {
            row.number(tag, value);
        }
        self.append(row)
    }

    fn validation(&mut self, info: &ValidationInfo) -> Result<(), SinkError> {
        let mut row = Row::of(info.step);
        row.number("val_loss", info.loss);
        row.insert("val_tokens", info.tokens);
        row.number("val_seconds", info.seconds);
        self.append(row)
    }
}

/// Says what a start has moved.
fn tell(aside: &SetAside, start_step: u64) {
    if let Some((rows, file)) = &aside.superseded {
        let file = file.display();
        tracing::info!(rows, %file, "rows after step {start_step}, which are done again, are kept");
    }
    if let Some((lines, file)) = &aside.damaged {
        let file = file.display();
        tracing::warn!(lines, %file, "lines that are no metrics rows were set aside");
    }
}

/// A row on its way to the file.
struct Row {
    values: Map<String, Value>,
    /// What the values that are not finite are.
    nonfinite: Map<String, Value>,
}

impl Row {
    fn of(step: u64) -> Self {
        let values = Map::from_iter([("step".to_owned(), step.into())]);
        Self { values, nonfinite: Map::new() }
    }

    fn insert(&mut self, name: &str, value: impl Into<Value>) {
        self.values.insert(name.to_owned(), value.into());
    }

    fn number(&mut self, name: impl Into<String>, value: f64) {
        let name = name.into();
        if !value.is_finite() {
            self.nonfinite.insert(name.clone(), value.to_string().into());
        }
        self.values.insert(name, value.into());
    }

    /// Returns the row as a line.
    fn into_line(mut self) -> String {
        if !self.nonfinite.is_empty() {
            self.values.insert("nonfinite".to_owned(), self.nonfinite.into());
        }
        Value::Object(self.values).to_string() + "\n"
    }
}

fn step_row(info: &StepInfo) -> Row {
    let mut row = Row::of(info.step);
    row.number("loss", info.loss);
    row.number("grad_norm", info.grad_norm);
    row.number("lr", info.lr);
    row.insert("tokens", info.tokens);
    row.number("tokens_per_second", info.tokens_per_second);
    row.insert("total_tokens", info.total_tokens);
    row.insert("epoch", info.epoch);
    row.number("step_seconds", info.step_seconds);
    row.number("data_seconds", info.data_seconds);
    row.number("communication_seconds", info.communication_seconds);
    row.insert("skipped", info.skipped);
    if let Some(scale) = info.loss_scale {
        row.number("loss_scale", scale);
    }
    if let Some(bytes) = info.gpu_bytes {
        row.insert("gpu_bytes", bytes);
    }
    for (name, &value) in &info.extra {
        row.number(format!("extra/{name}"), value);
    }
    row
}
