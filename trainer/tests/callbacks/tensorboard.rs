//! `TensorBoard` event files, read back by a reader of their own.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use dream_trainer::metrics::{MetricSink, TensorBoardSink};

use crate::support::{step, validation};

/// One decoded `Event`.
#[derive(Debug, Default)]
struct Event {
    wall_time: f64,
    step: u64,
    version: Option<String>,
    scalars: BTreeMap<String, f32>,
    session_status: Option<u64>,
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory.join("tensorboard")).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// Splits a file into records, checking every length and checksum.
fn events(path: &Path) -> Vec<Event> {
    let bytes = fs::read(path).unwrap();
    let mut rest = bytes.as_slice();
    let mut events = Vec::new();
    while !rest.is_empty() {
        let (length, tail) = rest.split_at(8);
        let (length_crc, tail) = tail.split_at(4);
        assert_eq!(unmasked(length_crc), crc32c_bitwise(length));
        let (content, tail) =
            tail.split_at(u64::from_le_bytes(length.try_into().unwrap()) as usize);
        let (content_crc, tail) = tail.split_at(4);
        assert_eq!(unmasked(content_crc), crc32c_bitwise(content));
        events.push(event(content));
        rest = tail;
    }
    events
}

fn unmasked(stored: &[u8]) -> u32 {
    let stored = u32::from_le_bytes(stored.try_into().unwrap());
    stored.wrapping_sub(0xa282_ead8).rotate_left(15)
}

/// The checksum by its definition, independent of the crate that the writer uses.
fn crc32c_bitwise(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 * (crc & 1)))
    })
}

/// The value of one protocol buffer field.
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn fields(mut bytes: &[u8]) -> Vec<(u64, Field<'_>)> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let field = match key & 7 {
            0 => Field::Number(varint(&mut bytes)),
            wire_type => {
                let length = match wire_type {
                    1 => 8,
                    2 => varint(&mut bytes) as usize,
                    5 => 4,
                    other => panic!("wire type {other}"),
                };
                let (content, rest) = bytes.split_at(length);
                bytes = rest;
                Field::Bytes(content)
            }
        };
        found.push((key >> 3, field));
    }
    found
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let (&byte, rest) = bytes.split_first().unwrap();
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
    }
    value
}

fn event(content: &[u8]) -> Event {
    let mut event = Event::default();
    for (number, field) in fields(content) {
        match (number, field) {
            (1, Field::Bytes(time)) => {
                event.wall_time = f64::from_le_bytes(time.try_into().unwrap());
            }
            (2, Field::Number(step)) => event.step = step,
            (3, Field::Bytes(text)) => {
                event.version = Some(String::from_utf8(text.to_vec()).unwrap());
            }
            (5, Field::Bytes(summary)) => {
                event.scalars = fields(summary).into_iter().map(|value| scalar(&value.1)).collect();
            }
            (7, Field::Bytes(session)) => match fields(session)[0] {
                (1, Field::Number(status)) => event.session_status = Some(status),
                _ => panic!("not a session status"),
            },
            (other, _) => panic!("field {other}"),
        }
    }
    event
}

fn scalar(value: &Field<'_>) -> (String, f32) {
    let Field::Bytes(value) = value else { panic!("a value is a message") };
    match fields(value)[..] {
        [(1, Field::Bytes(tag)), (2, Field::Bytes(number))] => {
            let number = f32::from_le_bytes(number.try_into().unwrap());
            (String::from_utf8(tag.to_vec()).unwrap(), number)
        }
        _ => panic!("not a tag and a simple value"),
    }
}

#[test]
fn checksum_of_the_reader_has_the_published_check_value() {
    assert_eq!(crc32c_bitwise(b"123456789"), 0xe306_9283);
}

#[test]
fn steps_and_validations_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = TensorBoardSink::new();
    sink.open(folder.path(), 0).unwrap();
    sink.annotate("mfu_percent", 41.5);
    let mut info = step(300);
    info.extra.insert("gan_loss".to_owned(), 0.5);
    sink.step(&info).unwrap();
    sink.validation(&validation(300, false)).unwrap();

    let events = events(&files(folder.path())[0]);
    assert_eq!(events[0].version.as_deref(), Some("brain.Event:2"));
    assert!(events.iter().all(|event| event.wall_time > 1.7e9 && event.session_status.is_none()));
    let expected = [
        ("extra/gan_loss", 0.5),
        ("grad_norm", 0.87),
        ("loss_metrics/global_avg_loss", info.loss as f32),
        ("lr", 3e-4),
        ("mfu_percent", 41.5),
        ("n_tokens_seen", 1_200_000.0),
        ("throughput(tps)", 16_000.0),
        ("time_metrics/communication(s)", 0.05),
        ("time_metrics/data_loading(s)", 0.01),
        ("time_metrics/end_to_end(s)", 0.25),
    ];
    let expected: BTreeMap<_, _> = expected.map(|(tag, value)| (tag.to_owned(), value)).into();
    assert_eq!((events[1].step, &events[1].scalars), (300, &expected));
    let expected = BTreeMap::from([("validation_metrics/loss".to_owned(), 2.25)]);
    assert_eq!((events[2].step, &events[2].scalars), (300, &expected));
    assert_eq!(events.len(), 3);
}

#[test]
fn continued_run_opens_its_own_file_and_purges_later_steps() {
    let folder = tempfile::tempdir().unwrap();
    for start_step in [0, 120, 120] {
        TensorBoardSink::new().open(folder.path(), start_step).unwrap();
    }
    let files = files(folder.path());
    assert_eq!(files.len(), 3, "starts within one second do not share a file");
    let mut purged_from = Vec::new();
    for path in &files {
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(
            name.starts_with("events.out.tfevents.1") && name.split('.').count() >= 5,
            "{name}"
        );
        let starts = events(path).into_iter().filter(|event| event.session_status == Some(1));
        purged_from.extend(starts.map(|event| event.step));
    }
    assert_eq!(purged_from, [121, 121]);
}

/// Points of a tag as `TensorBoard` shows them: a session start drops what earlier files say from its
/// step on.
fn shown(directory: &Path, tag: &str) -> Vec<u64> {
    let mut steps = Vec::new();
    for event in files(directory).iter().flat_map(|path| events(path)) {
        if event.session_status == Some(1) {
            steps.retain(|step| *step < event.step);
        }
        if event.scalars.contains_key(tag) {
            steps.push(event.step);
        }
    }
    steps
}

#[test]
fn no_point_is_shown_twice_after_any_restart() {
    let folder = tempfile::tempdir().unwrap();
    for (start, last) in [(0, 7), (5, 9), (5, 6), (0, 3), (0, 2), (2, 4)] {
        let mut sink = TensorBoardSink::new();
        sink.open(folder.path(), start).unwrap();
        for number in start + 1..=last {
            sink.step(&step(number)).unwrap();
        }
        let expected: Vec<u64> = (1..=last).collect();
        assert_eq!(shown(folder.path(), "grad_norm"), expected, "from {start} to {last}");
    }
    let kept = ["tensorboard.1", "tensorboard.2"].map(|name| folder.path().join(name));
    let counts = kept.map(|folder| fs::read_dir(folder).unwrap().count());
    assert_eq!(counts, [3, 1], "starts from nothing keep the files of earlier ones");
}

#[test]
fn events_go_on_in_a_new_file_when_theirs_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = TensorBoardSink::new();
    sink.open(folder.path(), 0).unwrap();
    sink.step(&step(1)).unwrap();
    fs::remove_file(&files(folder.path())[0]).unwrap();
    sink.step(&step(2)).unwrap();
    assert_eq!(shown(folder.path(), "grad_norm"), [2]);
    fs::remove_dir_all(folder.path().join("tensorboard")).unwrap();
    assert!(sink.step(&step(3)).is_err());
    assert!(!folder.path().join("tensorboard").exists(), "nor is the folder made again");
}
