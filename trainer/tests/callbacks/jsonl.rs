//! `metrics.jsonl`.

use std::fs;
use std::path::Path;

use dream_trainer::metrics::{JsonlSink, MetricSink, SinkError};
use serde_json::Value;

use crate::support::{step, validation};

fn text(directory: &Path) -> String {
    fs::read_to_string(directory.join("metrics.jsonl")).unwrap()
}

/// Writes the rows of steps `from..=to`, with a validation after every third.
fn write(sink: &mut JsonlSink, from: u64, to: u64) {
    for number in from..=to {
        sink.annotate("lr/adamw", 0.1);
        sink.step(&step(number)).unwrap();
        if number.is_multiple_of(3) {
            sink.validation(&validation(number, false)).unwrap();
        }
    }
}

#[test]
fn rows_have_the_documented_columns() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = JsonlSink::new();
    sink.open(folder.path(), 0).unwrap();
    sink.annotate("lr/adamw", 0.1);
    let mut info = step(1);
    info.extra.insert("gan_loss".to_owned(), 0.5);
    info.gpu_bytes = Some(1 << 30);
    sink.step(&info).unwrap();
    sink.validation(&validation(1, false)).unwrap();
    insta::assert_snapshot!(text(folder.path()), @r#"
    {"step":1,"loss":2.49,"grad_norm":0.87,"lr":0.0003,"tokens":4000,"tokens_per_second":16000.0,"total_tokens":4000,"epoch":0,"step_seconds":0.25,"data_seconds":0.01,"communication_seconds":0.05,"skipped":false,"gpu_bytes":1073741824,"extra/gan_loss":0.5,"lr/adamw":0.1}
    {"step":1,"val_loss":2.25,"val_tokens":8192,"val_seconds":1.5}
    "#);
}

#[test]
fn numbers_read_back_as_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = JsonlSink::new();
    sink.open(folder.path(), 0).unwrap();
    let values = [0.1 + 0.2, f64::MIN_POSITIVE, 1.0 / 3.0, 1e300, -0.0, 123_456.789_012_345_67];
    for (index, &loss) in values.iter().enumerate() {
        let mut info = step(index as u64 + 1);
        info.loss = loss;
        sink.step(&info).unwrap();
    }
    for (line, value) in text(folder.path()).lines().zip(values) {
        let (_, rest) = line.split_once("\"loss\":").unwrap();
        let (number, _) = rest.split_once(',').unwrap();
        assert_eq!(number.parse::<f64>().unwrap().to_bits(), value.to_bits(), "{line}");
    }
}

#[test]
fn what_is_not_finite_becomes_a_string() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = JsonlSink::new();
    sink.open(folder.path(), 0).unwrap();
    let mut info = step(1);
    (info.loss, info.grad_norm, info.lr) = (f64::NAN, f64::INFINITY, f64::NEG_INFINITY);
    sink.step(&info).unwrap();
    let row: Value = serde_json::from_str(&text(folder.path())).unwrap();
    assert_eq!([&row["loss"], &row["grad_norm"], &row["lr"]], ["NaN", "inf", "-inf"]);
}

#[test]
fn interrupted_and_continued_file_equals_an_uninterrupted_one() {
    let whole = tempfile::tempdir().unwrap();
    let mut sink = JsonlSink::new();
    sink.open(whole.path(), 0).unwrap();
    write(&mut sink, 1, 12);
    // (steps done, step of the checkpoint continued from, what the crash left of a row)
    for (done, saved, torn) in [(7, 5, ""), (7, 6, "{\"step\":8,\"lo"), (5, 5, ""), (2, 0, "{")] {
        let parted = tempfile::tempdir().unwrap();
        let mut sink = JsonlSink::new();
        sink.open(parted.path(), 0).unwrap();
        write(&mut sink, 1, done);
        drop(sink);
        let path = parted.path().join("metrics.jsonl");
        fs::write(&path, text(parted.path()) + torn).unwrap();
        let mut sink = JsonlSink::new();
        sink.open(parted.path(), saved).unwrap();
        write(&mut sink, saved + 1, 12);
        assert_eq!(text(parted.path()), text(whole.path()), "{done} done, {saved} saved");
    }
}

#[test]
fn refuses_to_continue_a_file_of_someone_else_and_leaves_it_alone() {
    for (content, line) in
        [("notes\n", 1), ("{\"step\":1}\n{\"loss\":1}\n", 2), ("{\"step\":-1}\n", 1), ("\n", 1)]
    {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("metrics.jsonl"), content).unwrap();
        let error = JsonlSink::new().open(folder.path(), 4).unwrap_err();
        assert!(matches!(error, SinkError::Row { line: found, .. } if found == line), "{error}");
        assert_eq!(text(folder.path()), content);
    }
}

#[test]
fn folder_that_cannot_be_made_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("run");
    fs::write(&file, "").unwrap();
    let error = JsonlSink::new().open(&file, 0).unwrap_err();
    let expected = format!("cannot open metrics file `{}`", file.join("metrics.jsonl").display());
    assert_eq!(error.to_string(), expected);
}
