//! `TensorBoard` event files, written without its libraries.
//!
//! An event file is a series of records: length, masked CRC-32C of the length, protocol buffer
//! `Event`, masked CRC-32C of the event. Of the messages only the fields that scalars need are
//! encoded.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::appender::Appender;
use super::{MetricSink, SinkError};
use crate::metrics::{StepInfo, ValidationInfo};
use crate::run_folder::keep;
use crate::world::host_name;

/// Writes scalars to an event file in `tensorboard/` of a run's folder.
///
/// Tags: `loss_metrics/global_avg_loss`, `grad_norm`, `lr`, `throughput(tps)` (labels per second
/// over all ranks), `time_metrics/end_to_end(s)`, `time_metrics/data_loading(s)`, `n_tokens_seen`,
/// `loss_scale` (with `f16`), `extra/*` and `validation_metrics/loss`. Each start of a run opens its
/// own file; one that continues after step s tells `TensorBoard` to forget what earlier files say
/// about later steps. A start from step 0 keeps the folder of an earlier one as `tensorboard.1`.
#[derive(Debug, Default)]
pub struct TensorBoardSink {
    file: Option<Appender>,
    folder: PathBuf,
    annotations: Vec<(String, f64)>,
}

impl TensorBoardSink {
    /// Name of the folder in a run's folder.
    pub const FOLDER_NAME: &'static str = "tensorboard";

    /// Returns a sink that is not open yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn write(&mut self, step: u64, scalars: &[(&str, f64)]) -> Result<(), SinkError> {
        let file = self.file.as_mut().ok_or(SinkError::NotOpen { sink: "tensorboard" })?;
        let mut summary = Vec::new();
        for (tag, value) in scalars {
            message(&mut summary, 1, &scalar(tag, *value as f32));
        }
        let mut event = event(step);
        message(&mut event, 5, &summary);
        let record = record(&event);
        match file.append(&record) {
            Err(SinkError::Removed { path }) => {
                tracing::warn!(
                    path = %path.display(),
                    "the event file was removed or replaced; events go on in a new one"
                );
                self.begin(&[])?.append(&record)
            }
            done => done,
        }
    }

    /// Begins an event file with its version and more.
    fn begin(&mut self, more: &[u8]) -> Result<&mut Appender, SinkError> {
        let path = create(&self.folder)
            .map_err(|source| SinkError::Open { path: self.folder.clone(), source })?;
        let mut version = event(0);
        message(&mut version, 3, b"brain.Event:2");
        let file = self.file.insert(Appender::open(path)?);
        file.append(&[record(&version), more.to_vec()].concat())?;
        Ok(file)
    }
}

impl MetricSink for TensorBoardSink {
    fn name(&self) -> &'static str {
        "tensorboard"
    }

    fn open(&mut self, directory: &Path, start_step: u64) -> Result<(), SinkError> {
        self.folder = directory.join(Self::FOLDER_NAME);
        let failed = |source| SinkError::Open { path: self.folder.clone(), source };
        if start_step > 0 {
            fs::create_dir_all(&self.folder).map_err(failed)?;
            return self.begin(&record(&session_start(start_step + 1))).map(|_| ());
        }
        if let Some(kept) = keep_events(&self.folder).map_err(failed)? {
            tracing::info!(kept = %kept.display(), "the events of an earlier start are kept");
        }
        fs::create_dir_all(&self.folder).map_err(failed)?;
        self.begin(&[]).map(|_| ())
    }

    fn annotate(&mut self, tag: &str, value: f64) {
        self.annotations.push((tag.to_owned(), value));
    }

    fn step(&mut self, info: &StepInfo) -> Result<(), SinkError> {
        let mut scalars = vec![
            ("loss_metrics/global_avg_loss", info.loss),
            ("grad_norm", info.grad_norm),
            ("lr", info.lr),
            ("throughput(tps)", info.tokens_per_second),
            ("time_metrics/end_to_end(s)", info.step_seconds),
            ("time_metrics/data_loading(s)", info.data_seconds),
            ("time_metrics/communication(s)", info.communication_seconds),
            ("n_tokens_seen", info.total_tokens as f64),
        ];
        scalars.extend(info.loss_scale.map(|scale| ("loss_scale", scale)));
        let gibibytes = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        scalars.extend(info.gpu_bytes.map(|bytes| ("memory/reserved(GiB)", gibibytes(bytes))));
        let mut named = std::mem::take(&mut self.annotations);
        named.extend(info.extra.iter().map(|(name, &value)| (format!("extra/{name}"), value)));
        scalars.extend(named.iter().map(|(tag, value)| (tag.as_str(), *value)));
        self.write(info.step, &scalars)
    }

    fn validation(&mut self, info: &ValidationInfo) -> Result<(), SinkError> {
        self.write(info.step, &[("validation_metrics/loss", info.loss)])
    }
}

/// Gives a folder that holds something a numbered name, and returns it.
fn keep_events(folder: &Path) -> io::Result<Option<PathBuf>> {
    match fs::read_dir(folder).map(Iterator::count) {
        Ok(1..) => keep(folder).map(Some),
        Ok(_) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Creates `events.out.tfevents.<seconds>.<host>`, with a counter behind it when a start within the
/// same second took the name.
fn create(folder: &Path) -> io::Result<PathBuf> {
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || "-_.".contains(*c);
    let host: String = host_name().chars().filter(is_plain).collect();
    let base = format!("events.out.tfevents.{:010}.{host}", since_epoch().as_secs());
    let mut path = folder.join(&base);
    for counter in 1.. {
        match File::create_new(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                path = folder.join(format!("{base}.{counter}"));
            }
            made => return made.map(|_| path),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Encodes the head of an `Event`: wall time and step.
fn event(step: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    tag(&mut bytes, 1, WireType::Fixed64);
    bytes.extend(since_epoch().as_secs_f64().to_le_bytes());
    tag(&mut bytes, 2, WireType::Varint);
    varint(&mut bytes, step);
    bytes
}

/// Encodes the event after which `TensorBoard` drops points from `step` on of earlier files.
fn session_start(step: u64) -> Vec<u8> {
    const START: u8 = 1;
    let mut bytes = event(step);
    let mut session = Vec::new();
    tag(&mut session, 1, WireType::Varint);
    session.push(START);
    message(&mut bytes, 7, &session);
    bytes
}

/// Encodes a `Summary.Value` with a tag and a simple value.
fn scalar(name: &str, value: f32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(name.len() + 8);
    message(&mut bytes, 1, name.as_bytes());
    tag(&mut bytes, 2, WireType::Fixed32);
    bytes.extend(value.to_le_bytes());
    bytes
}

#[derive(Clone, Copy)]
enum WireType {
    Varint = 0,
    Fixed64 = 1,
    Delimited = 2,
    Fixed32 = 5,
}

fn tag(bytes: &mut Vec<u8>, field: u8, wire_type: WireType) {
    bytes.push(field << 3 | wire_type as u8);
}

fn varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn message(bytes: &mut Vec<u8>, field: u8, content: &[u8]) {
    tag(bytes, field, WireType::Delimited);
    varint(bytes, content.len() as u64);
    bytes.extend(content);
}

fn record(content: &[u8]) -> Vec<u8> {
    let length = (content.len() as u64).to_le_bytes();
    let mut bytes = Vec::with_capacity(content.len() + 16);
    bytes.extend(length);
    bytes.extend(masked_crc(&length).to_le_bytes());
    bytes.extend(content);
    bytes.extend(masked_crc(content).to_le_bytes());
    bytes
}

/// Returns the checksum in the rotated form that records use, so that a checksum over records stays
/// useful.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}
