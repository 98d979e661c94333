//! `metrics.jsonl`: one JSON object a line, numbers at full precision.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::appender::Appender;
use super::{MetricSink, SinkError};
use crate::metrics::{StepInfo, ValidationInfo};

/// Appends every step and validation to `metrics.jsonl` in a run's folder.
///
/// A step is `{"step":1,"loss":..,"grad_norm":..,"lr":..,"tokens":..,"tokens_per_second":..,..}`, a
/// validation `{"step":1,"val_loss":..,..}`. Numbers are the shortest text that reads back as the
/// same `f64`. JSON has no word for what is not finite: those are the strings `"NaN"`, `"inf"` and
/// `"-inf"`.
///
/// Continued after step s, the file first loses every row after s and a last line that was cut off.
/// An interrupted and continued run thus leaves the rows of an uninterrupted one.
#[derive(Debug, Default)]
pub struct JsonlSink {
    file: Option<Appender>,
    annotations: Vec<(String, f64)>,
}

/// The part of a row that says where it belongs.
#[derive(Deserialize)]
struct Position {
    step: u64,
}

impl JsonlSink {
    /// Name of the file in a run's folder.
    pub const FILE_NAME: &'static str = "metrics.jsonl";

    /// Returns a sink that is not open yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn append(&mut self, row: Map<String, Value>) -> Result<(), SinkError> {
        let file = self.file.as_mut().ok_or(SinkError::NotOpen { sink: "jsonl" })?;
        let mut line = Value::Object(row).to_string();
        line.push('\n');
        file.append(line.as_bytes())
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
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(&path).map_err(failed)?;
        let length = kept_bytes(&file, &path, start_step)?;
        self.file = Some(Appender::new(path, file, length)?);
        Ok(())
    }

    fn annotate(&mut self, tag: &str, value: f64) {
        self.annotations.push((tag.to_owned(), value));
    }

    fn step(&mut self, info: &StepInfo) -> Result<(), SinkError> {
        let mut row = step_row(info);
        for (tag, value) in self.annotations.drain(..) {
            row.insert(tag, number(value));
        }
        self.append(row)
    }

    fn validation(&mut self, info: &ValidationInfo) -> Result<(), SinkError> {
        self.append(Map::from_iter([
            ("step".to_owned(), info.step.into()),
            ("val_loss".to_owned(), number(info.loss)),
            ("val_tokens".to_owned(), info.tokens.into()),
            ("val_seconds".to_owned(), number(info.seconds)),
        ]))
    }
}

/// Returns the bytes of the leading rows that belong to steps up to `start_step`.
fn kept_bytes(file: &File, path: &Path, start_step: u64) -> Result<u64, SinkError> {
    if start_step == 0 {
        return Ok(0);
    }
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    let mut kept = 0;
    for number in 1.. {
        line.clear();
        let read = reader
            .read_until(b'\n', &mut line)
            .map_err(|source| SinkError::Open { path: path.to_owned(), source })?;
        if line.last() != Some(&b'\n') {
            break;
        }
        let position: Position = serde_json::from_slice(&line)
            .map_err(|_| SinkError::Row { path: path.to_owned(), line: number })?;
        if position.step > start_step {
            break;
        }
        kept += read as u64;
    }
    Ok(kept)
}

fn step_row(info: &StepInfo) -> Map<String, Value> {
    let mut row = Map::from_iter([
        ("step".to_owned(), info.step.into()),
        ("loss".to_owned(), number(info.loss)),
        ("grad_norm".to_owned(), number(info.grad_norm)),
        ("lr".to_owned(), number(info.lr)),
        ("tokens".to_owned(), info.tokens.into()),
        ("tokens_per_second".to_owned(), number(info.tokens_per_second)),
        ("total_tokens".to_owned(), info.total_tokens.into()),
        ("epoch".to_owned(), info.epoch.into()),
        ("step_seconds".to_owned(), number(info.step_seconds)),
        ("data_seconds".to_owned(), number(info.data_seconds)),
        ("communication_seconds".to_owned(), number(info.communication_seconds)),
        ("skipped".to_owned(), info.skipped.into()),
    ]);
    row.extend(info.loss_scale.map(|scale| ("loss_scale".to_owned(), number(scale))));
    row.extend(info.gpu_bytes.map(|bytes| ("gpu_bytes".to_owned(), bytes.into())));
    for (name, &value) in &info.extra {
        row.insert(format!("extra/{name}"), number(value));
    }
    row
}

fn number(value: f64) -> Value {
    serde_json::Number::from_f64(value).map_or_else(|| value.to_string().into(), Value::Number)
}
