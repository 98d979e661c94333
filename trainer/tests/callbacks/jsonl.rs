//! `metrics.jsonl`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use dream_trainer::metrics::{JsonlSink, MetricSink, SinkError};
use proptest::prelude::*;
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
fn what_is_not_finite_is_null_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = JsonlSink::new();
    sink.open(folder.path(), 0).unwrap();
    let mut info = step(1);
    (info.loss, info.grad_norm, info.lr) = (f64::NAN, f64::INFINITY, f64::NEG_INFINITY);
    sink.step(&info).unwrap();
    sink.step(&step(2)).unwrap();
    let rows: Vec<Value> =
        text(folder.path()).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names = ["loss", "grad_norm", "lr"];
    assert!(names.iter().all(|name| rows[0][name].is_null()), "{}", rows[0]);
    let told = serde_json::json!({"loss": "NaN", "grad_norm": "inf", "lr": "-inf"});
    assert_eq!(rows[0]["nonfinite"], told);
    assert!(rows[1].get("nonfinite").is_none(), "{}", rows[1]);
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

/// The files of a folder by name, and what they hold.
fn files(folder: &Path) -> BTreeMap<String, String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned())
        })
        .collect()
}

#[test]
fn start_from_nothing_keeps_the_rows_of_earlier_ones() {
    let folder = tempfile::tempdir().unwrap();
    let mut expected = Vec::new();
    for last in [2, 3, 4] {
        let mut sink = JsonlSink::new();
        sink.open(folder.path(), 0).unwrap();
        write(&mut sink, 1, last);
        expected.push(text(folder.path()));
    }
    // A start that ended before its first step has nothing to keep.
    for _ in 0..2 {
        JsonlSink::new().open(folder.path(), 0).unwrap();
    }
    expected.push(String::new());
    let files = files(folder.path());
    let names: Vec<_> = files.keys().map(String::as_str).collect();
    assert_eq!(names, ["metrics.1.jsonl", "metrics.2.jsonl", "metrics.3.jsonl", "metrics.jsonl"]);
    assert_eq!(files.into_values().collect::<Vec<_>>(), expected);
}

#[test]
fn rows_of_a_branch_that_is_left_are_kept_beside_the_others() {
    let folder = tempfile::tempdir().unwrap();
    for (start, last) in [(0, 9), (6, 8), (7, 10)] {
        let mut sink = JsonlSink::new();
        sink.open(folder.path(), start).unwrap();
        write(&mut sink, start + 1, last);
    }
    let steps = |text: &String| -> Vec<u64> {
        let rows = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        rows.filter(|row| row.get("loss").is_some())
            .map(|row| row["step"].as_u64().unwrap())
            .collect()
    };
    let files = files(folder.path());
    let found: Vec<_> = files.iter().map(|(name, text)| (name.as_str(), steps(text))).collect();
    let expected = [
        ("metrics.jsonl", (1..=10).collect()),
        ("metrics.superseded.1.jsonl", vec![7, 8, 9]),
        ("metrics.superseded.2.jsonl", vec![8]),
    ];
    assert_eq!(found, expected);
}

#[test]
fn lines_that_are_no_rows_are_set_aside() {
    let long = format!("{{\"step\":1,\"x\":\"{}\"}}\n", "x".repeat(3 << 20));
    // What is there, what stays, and what is set aside as no row; the start continues after step 4.
    let rows = [
        ("notes\n", "", "notes\n"),
        (
            "{\"step\":1}\n{\"loss\":1}\n{\"step\":2}\n",
            "{\"step\":1}\n{\"step\":2}\n",
            "{\"loss\":1}\n",
        ),
        (
            "{\"step\":1}{\"step\":2}\n{\"step\":3}\n",
            "{\"step\":3}\n",
            "{\"step\":1}{\"step\":2}\n",
        ),
        ("{\"step\":-1}\n\n", "", "{\"step\":-1}\n\n"),
        ("{\"step\":4}\n{\"step\":5,\"lo", "{\"step\":4}\n", "{\"step\":5,\"lo"),
        ("{\"step\":3}\n{\"step\":4}", "{\"step\":3}\n{\"step\":4}\n", ""),
        ("\u{feff}{\"step\":1}\n\0\0\0", "", "\u{feff}{\"step\":1}\n\0\0\0"),
        (&long, "", &long),
    ];
    for (content, stays, aside) in rows {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("metrics.jsonl"), content).unwrap();
        JsonlSink::new().open(folder.path(), 4).unwrap();
        let mut expected = BTreeMap::from([("metrics.jsonl".to_owned(), stays.to_owned())]);
        if !aside.is_empty() {
            expected.insert("metrics.damaged.1.jsonl".to_owned(), aside.to_owned());
        }
        assert!(files(folder.path()) == expected, "{:?}", &content[..content.len().min(80)]);
    }
}

/// A line as it may stand in a file: a row of a step, or something else.
fn line() -> impl Strategy<Value = (Option<u64>, String)> {
    prop_oneof![
        3 => (0_u64..12, "[a-z]{0,3}")
            .prop_map(|(step, tag)| (Some(step), format!("{{\"step\":{step},\"{tag}\":1}}\n"))),
        1 => "[a-z{}\" ]{0,12}".prop_map(|text| (None, text + "\n")),
    ]
}

proptest! {
    #[test]
    fn no_line_is_ever_lost(lines in prop::collection::vec(line(), 0..20), start in 1_u64..12) {
        let folder = tempfile::tempdir().unwrap();
        let content: String = lines.iter().map(|(_, line)| line.as_str()).collect();
        fs::write(folder.path().join("metrics.jsonl"), content).unwrap();
        JsonlSink::new().open(folder.path(), start).unwrap();
        let found = files(folder.path());
        let part = |keep: fn(Option<u64>, u64) -> bool| -> String {
            let kept = lines.iter().filter(|(step, _)| keep(*step, start));
            kept.map(|(_, line)| line.as_str()).collect()
        };
        let expected = [
            ("metrics.jsonl", part(|step, start| step.is_some_and(|step| step <= start))),
            ("metrics.superseded.1.jsonl", part(|step, start| step.is_some_and(|step| step > start))),
            ("metrics.damaged.1.jsonl", part(|step, _| step.is_none())),
        ];
        for (name, text) in expected {
            prop_assert_eq!(found.get(name).map_or("", String::as_str), text, "{}", name);
        }
    }
}

#[test]
fn rows_go_on_in_a_new_file_when_theirs_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = JsonlSink::new();
    sink.open(folder.path(), 0).unwrap();
    write(&mut sink, 1, 1);
    fs::rename(folder.path().join("metrics.jsonl"), folder.path().join("rotated")).unwrap();
    write(&mut sink, 2, 2);
    let rows = files(folder.path());
    assert!(
        rows["rotated"].contains("\"step\":1,") && rows["metrics.jsonl"].contains("\"step\":2,")
    );
    drop(rows);

    let run = folder.path().join("run");
    let mut sink = JsonlSink::new();
    sink.open(&run, 0).unwrap();
    fs::remove_dir_all(&run).unwrap();
    let error = sink.step(&step(1)).unwrap_err();
    assert!(matches!(error, SinkError::Open { .. }), "{error}");
    assert!(!run.exists(), "a folder that was removed is not made again");
}

#[cfg(unix)]
#[test]
fn pipe_in_place_of_the_file_is_an_error_and_no_wait() {
    let folder = tempfile::tempdir().unwrap();
    let made =
        std::process::Command::new("mkfifo").arg(folder.path().join("metrics.jsonl")).status();
    assert!(made.unwrap().success());
    for start in [0, 3] {
        let error = JsonlSink::new().open(folder.path(), start).unwrap_err();
        assert!(matches!(error, SinkError::Open { .. }), "{error}");
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
