//! Epochs, the length of a run and its schedule follow the data, whatever the batch size.

use std::fs;
use std::path::Path;

use crate::CHECKPOINTS;
use crate::support::{self, Epoch, Run, TINY};

/// Steps and epochs of a run's metrics.
fn epochs(folder: &Path) -> Vec<u64> {
    let path = folder.join("outputs/dream-train/default/run/metrics.jsonl");
    let text = fs::read_to_string(path).unwrap();
    let row = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
    text.lines().map(|line| row(line)["epoch"].as_u64().unwrap()).collect()
}

#[test]
fn epochs_are_counted_in_sequences_whatever_the_batch_size() {
    let toml = TINY.replace("steps = 6\n", "");
    let data = [&CHECKPOINTS[..], &["data.num_sequences=64"]].concat();
    let start = |folder: &Path, epochs: u64, batch: u64| {
        let epochs = format!("training_parameters.epochs={epochs}");
        let batch = format!("training_parameters.global_batch_size={batch}");
        Run::new(folder, &toml).with(&data).with(&[&epochs, &batch]).go().unwrap().0.step
    };
    // (batch size of the second epoch, its steps)
    for (batch, more) in [(8, 8), (16, 4), (4, 16), (24, 2)] {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(start(folder.path(), 1, 8), 8);
        assert_eq!(start(folder.path(), 2, batch), 8 + more, "{batch}");
        let expected = [vec![0; 8], vec![1; more as usize]].concat();
        assert_eq!(epochs(folder.path()), expected, "{batch}");
    }
    // In the middle of an epoch: 24 sequences are taken, 40 are left.
    for (batch, more) in [(16, 2), (4, 10), (5, 8)] {
        let folder = tempfile::tempdir().unwrap();
        let first = ["training_parameters.epochs=1", "training_parameters.global_batch_size=8"];
        let run = Run::new(folder.path(), &toml).with(&data).with(&first);
        assert_eq!(run.stopping_after(3).go().unwrap().0.step, 3);
        assert_eq!(start(folder.path(), 1, batch), 3 + more, "{batch}");
        assert_eq!(epochs(folder.path()), vec![0; 3 + more as usize], "{batch}");
    }
}

#[test]
fn a_complete_run_does_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let again = || Run::new(folder.path(), TINY).with(&CHECKPOINTS).go().unwrap();
    again();
    let run = folder.path().join("outputs/dream-train/default/run");
    let files = || {
        let mut found = Vec::new();
        for folder in [run.clone(), run.join("checkpoints")] {
            for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
                let (name, entry) = (entry.file_name(), entry.metadata().unwrap());
                // The lock names the process that holds it.
                if name == "run.lock" || entry.is_dir() {
                    continue;
                }
                found.push((name, entry.len(), entry.modified().unwrap()));
            }
        }
        found.sort();
        found
    };
    let before = files();
    let (outcome, seen) = again();
    assert_eq!((outcome.step, outcome.interrupted, outcome.loss), (6, false, None));
    assert!(seen.steps.is_empty() && seen.validations.is_empty());
    assert_eq!(files(), before);
}

#[test]
fn callbacks_hear_of_epochs_as_the_data_pass() {
    use Epoch::{Begins, Ends};

    // (model, batch size after 8 of 64 sequences, steps of the whole run, what is heard then)
    let mlp = "[model]\nname = \"mlp\"\nwidths = [4, 4]\n[data]\nnum_sequences = 64\n[training_parameters]\nsequence_length = 4\n[metrics]\njsonl = true\n";
    let llama = TINY.replace("steps = 6\n", "");
    for model in [&llama, mlp] {
        for (batch, steps, heard) in [
            // As many steps are left as a whole epoch has, and still it is not its beginning.
            (24, 1 + 2 + 2, vec![Ends(0), Begins(1), Ends(1)]),
            (8, 1 + 7 + 8, vec![Ends(0), Begins(1), Ends(1)]),
            // What is left does not fill a batch.
            (64, 1 + 1, vec![Begins(1), Ends(1)]),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let start = |batch: u64| {
                let batch = format!("training_parameters.global_batch_size={batch}");
                let sets = [&CHECKPOINTS[..], &["training_parameters.epochs=2", &batch]].concat();
                Run::new(folder.path(), model).with(&sets)
            };
            let (_, first) = start(8).stopping_after(1).go().unwrap();
            assert_eq!(first.epochs, [Begins(0)]);
            let (outcome, second) = start(batch).go().unwrap();
            assert_eq!((outcome.step, second.epochs), (steps, heard), "{batch}");
        }
    }
}

#[test]
fn the_schedule_ends_with_the_last_step_whatever_its_size() {
    let toml = TINY.replace("steps = 6\n", "");
    let linear = "lr_scheduler.name=linear";
    for (batch, steps) in [(8, 16), (16, 12), (4, 24)] {
        let folder = tempfile::tempdir().unwrap();
        let start = |epochs: u64, batch: u64| {
            let epochs = format!("training_parameters.epochs={epochs}");
            let batch = format!("training_parameters.global_batch_size={batch}");
            let run = Run::new(folder.path(), &toml).with(&CHECKPOINTS);
            run.with(&[linear, &epochs, &batch]).go().unwrap().1.steps
        };
        start(1, 8);
        let rates: Vec<f64> = start(2, batch).iter().map(|info| info.lr).collect();
        let expected = (8..steps).map(|index| 1e-2 * (1.0 - index as f64 / steps as f64));
        for (rate, expected) in rates.iter().zip(expected) {
            support::close(*rate, expected, 1e-12, "rate");
        }
        assert_eq!(rates.len() as u64, steps - 8);
    }
}
