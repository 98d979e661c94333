//! Runs that continue below their newest checkpoint: what is newer is set aside, the new branch is
//! saved, and a restart goes on with it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{Run, Seen, TINY};

const FSDP: [&str; 2] = ["device_parameters.preset=fsdp", "device_parameters.world_size=2"];
const EVERY_2: [&str; 4] = [
    "checkpoint.enable=true",
    "checkpoint.keep_latest=0",
    "checkpoint.every_n_steps=2",
    "metrics.jsonl=true",
];

pub fn checkpoints(folder: &Path) -> PathBuf {
    folder.join("outputs/dream-train/default/run/checkpoints")
}

/// Names in the folder of checkpoints, sorted, without `step-0000000`.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(checkpoints(folder)).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names.iter().map(|name| name.replace("step-0000000", "")).collect()
}

/// Steps and losses that a start showed.
fn losses(seen: &Seen) -> Vec<(u64, u64)> {
    seen.steps.iter().map(|info| (info.step, info.loss.to_bits())).collect()
}

fn first_step(seen: &Seen) -> u64 {
    seen.steps[0].step
}

fn run<'a>(folder: &'a Path, sets: &[&str]) -> Run<'a> {
    Run::new(folder, TINY).with(&EVERY_2).with(sets)
}

#[test]
fn a_branch_is_saved_and_the_next_start_continues_it() {
    for mesh in [&[][..], &FSDP] {
        let folder = tempfile::tempdir().unwrap();
        run(folder.path(), mesh).go().unwrap();
        let old = fs::read(checkpoints(folder.path()).join("step-00000006/rank-00000.safetensors"));
        let branch = ["checkpoint.resume_step=2", "optimizer.lr=1e-3"];
        let (outcome, seen) = run(folder.path(), mesh).with(&branch).go().unwrap();
        assert_eq!((outcome.step, first_step(&seen)), (6, 3));
        assert_eq!(names(folder.path()), ["2", "4", "4.superseded-1", "6", "6.superseded-1"]);
        let new = fs::read(checkpoints(folder.path()).join("step-00000006/rank-00000.safetensors"));
        assert_ne!(old.unwrap(), new.unwrap(), "the branch has its own weights");

        let longer = ["optimizer.lr=1e-3", "training_parameters.steps=8"];
        let (_, seen) = run(folder.path(), mesh).with(&longer).go().unwrap();
        // The same without a branch: two steps of the old rate, six of the new.
        let other = tempfile::tempdir().unwrap();
        run(other.path(), mesh).stopping_after(2).go().unwrap();
        let (_, whole) = run(other.path(), mesh).with(&longer).go().unwrap();
        assert_eq!(losses(&seen), losses(&whole)[4..]);
    }
}

#[test]
fn a_request_holds_for_the_first_start_of_its_branch() {
    let folder = tempfile::tempdir().unwrap();
    run(folder.path(), &[]).stopping_after(4).go().unwrap();
    let branch = ["checkpoint.resume_step=2"];
    let (_, seen) = run(folder.path(), &branch).stopping_after(3).go().unwrap();
    assert_eq!(first_step(&seen), 3);
    assert_eq!(names(folder.path()), ["2", "3", "4.superseded-1"]);
    // The same command again, as a scheduler repeats it.
    let (_, seen) = run(folder.path(), &branch).stopping_after(5).go().unwrap();
    assert_eq!(first_step(&seen), 4);
    assert_eq!(names(folder.path()), ["2", "3", "4", "4.superseded-1", "5"]);
    // On purpose once more, under a name.
    let again = [branch[0], "checkpoint.branch=again"];
    let (_, seen) = run(folder.path(), &again).stopping_after(3).go().unwrap();
    assert_eq!(first_step(&seen), 3);
    let (_, seen) = run(folder.path(), &again).stopping_after(4).go().unwrap();
    assert_eq!(first_step(&seen), 4);
    // A start without a request clears the record: the next one is new.
    let (_, seen) = run(folder.path(), &[]).stopping_after(5).go().unwrap();
    assert_eq!(first_step(&seen), 5);
    let (_, seen) = run(folder.path(), &again).stopping_after(3).go().unwrap();
    assert_eq!(first_step(&seen), 3);
    let aside = names(folder.path()).into_iter().filter(|name| name.contains("superseded"));
    assert_eq!(
        aside.collect::<Vec<_>>(),
        [
            "3.superseded-1",
            "3.superseded-2",
            "4.superseded-1",
            "4.superseded-2",
            "4.superseded-3",
            "5.superseded-1",
            "5.superseded-2"
        ]
    );
}

#[test]
fn a_branch_that_dies_before_its_first_save_begins_again() {
    let folder = tempfile::tempdir().unwrap();
    run(folder.path(), &[]).go().unwrap();
    let branch = ["checkpoint.resume_step=4", "checkpoint.keep_latest=1"];
    let dying = ["checkpoint.every_n_steps=0", "checkpoint.save_on_interrupt=false"];
    for _ in 0..2 {
        let start = run(folder.path(), &branch).with(&dying).stopping_after(5);
        assert_eq!(first_step(&start.go().unwrap().1), 5);
        assert_eq!(names(folder.path()), ["2", "4", "6.superseded-1"]);
    }
    let (_, seen) = run(folder.path(), &branch).go().unwrap();
    assert_eq!(first_step(&seen), 5);
    // Retention takes the checkpoint it began at only now.
    assert_eq!(names(folder.path()), ["6", "6.superseded-1"]);
}

#[test]
fn a_step_that_is_not_there_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    run(folder.path(), &[]).go().unwrap();
    let error = run(folder.path(), &["checkpoint.resume_step=3"]).go().unwrap_err();
    assert!(error.contains("which holds steps [2, 4, 6]"), "{error}");
    assert_eq!(names(folder.path()), ["2", "4", "6"]);
}

#[test]
fn a_start_that_is_refused_sets_nothing_aside() {
    let folder = tempfile::tempdir().unwrap();
    run(folder.path(), &[]).go().unwrap();
    let sets = ["checkpoint.resume_step=2", "data.num_sequences=128"];
    assert!(run(folder.path(), &sets).go().is_err(), "other data");
    assert_eq!(names(folder.path()), ["2", "4", "6"]);
}

#[test]
fn a_step_that_is_taken_is_an_error_and_not_silence() {
    let folder = tempfile::tempdir().unwrap();
    let taken = checkpoints(folder.path()).join("step-00000006");
    let seen = run(folder.path(), &[]).stopping_after(4).go().unwrap().1;
    assert_eq!(first_step(&seen), 1);
    // Newer than anything the start knows of: it comes while the run is under way.
    let start = run(folder.path(), &[]).prepared(|prepared| {
        let callbacks = |rank| {
            let mut set = dream_trainer::callbacks::CallbackSet::new(rank);
            set.push(Box::new(Squatter(taken.clone()))).unwrap();
            set
        };
        let ranks = dream_trainer::comm::Ranks::Threads(1);
        prepared.fit(&ranks, &dream_trainer::train::Interrupt::default(), &callbacks)
    });
    let failure = start.unwrap().unwrap_err();
    let causes = std::iter::successors(Some(&failure as &dyn std::error::Error), |e| e.source());
    let text = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
    assert!(text.contains("step-00000006` exists already"), "{text}");
}

/// Makes a folder after a step.
struct Squatter(PathBuf);

impl dream_trainer::callbacks::Callback for Squatter {
    fn name(&self) -> &'static str {
        "squatter"
    }

    fn post_train_step(
        &mut self,
        _: &dream_trainer::callbacks::RunView,
        _: &dream_trainer::metrics::StepInfo,
        _: &mut dream_trainer::callbacks::Requests,
    ) -> dream_trainer::callbacks::CallbackResult {
        fs::create_dir_all(&self.0).unwrap();
        Ok(())
    }
}
