//! Who may write into a run folder, what a start keeps of earlier ones, and what happens when the folder
//! or the disk goes away.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use dream_trainer::comm::{CommTimeouts, Ranks};
use dream_trainer::run_folder::RunFolder;

use super::{TOML, folder, program, run};

fn run_folder(folder: &Path) -> PathBuf {
    folder.join("outputs/dream-train/default/run")
}

/// Far above what any of these runs takes.
const PROMPT: Duration = Duration::from_mins(2);
/// Settings of a run that goes on until it is told to end.
const LONG: [&str; 9] = [
    "--config",
    "run.toml",
    "--quiet",
    "--set",
    "training_parameters.steps=1000000",
    "--set",
    "checkpoint.enable=true",
    "--set",
    "checkpoint.every_n_steps=50",
];

fn begin(folder: &Path) -> Child {
    let mut command = program::command(folder, &LONG);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PROMPT, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn ended(child: Child) -> (Option<i32>, String) {
    let output = child.wait_with_output().unwrap();
    (output.status.code(), program::text(&output))
}

fn end(child: &Child) {
    let status = Command::new("kill").arg(child.id().to_string()).status();
    assert!(status.unwrap().success());
}

/// Steps of all rows, each of which must be whole.
fn steps(folder: &Path) -> Vec<u64> {
    let text = fs::read_to_string(run_folder(folder).join("metrics.jsonl")).unwrap_or_default();
    // The last line may be under way.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let row = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
    whole.lines().map(|line| row(line)["step"].as_u64().unwrap()).collect()
}

#[test]
fn one_of_two_runs_gets_the_folder_and_the_other_says_who_has_it() {
    let folder = folder();
    let folder = folder.path();
    for milliseconds in [0, 0, 0, 5, 20, 50, 100, 200, 400, 600] {
        let first = begin(folder);
        thread::sleep(Duration::from_millis(milliseconds));
        let mut pair = [first, begin(folder)];
        let mut refused = None;
        until("one of them is refused", || {
            refused = pair.iter_mut().position(|child| child.try_wait().unwrap().is_some());
            refused.is_some()
        });
        let [first, second] = pair;
        let (loser, winner) = if refused == Some(0) { (first, second) } else { (second, first) };
        let (code, shown) = ended(loser);
        assert_eq!(code, Some(3), "{milliseconds} ms: {shown}");
        assert!(shown.contains(&format!("in use by process {} on host `", winner.id())), "{shown}");
        let before = steps(folder).len();
        until("the other one trains", || steps(folder).len() > before);
        end(&winner);
        let (code, shown) = ended(winner);
        assert_eq!(code, Some(130), "{milliseconds} ms: {shown}");
        assert!(!shown.contains("lost"), "{shown}");
    }
    let steps = steps(folder);
    let expected: Vec<u64> = (1..=steps.len() as u64).collect();
    assert_eq!(steps, expected, "one run, continued nine times, is in the file");
    let last = format!("training_parameters.steps={}", steps.len() + 2);
    let output = run(folder, &[&LONG[..], &["--set", &last]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", program::text(&output));
}

#[test]
fn commands_that_write_nothing_there_need_no_run_folder() {
    let folder = folder();
    let folder = folder.path();
    let owner =
        RunFolder::claim(&run_folder(folder), &Ranks::Threads(1), CommTimeouts::default()).unwrap();
    let rows: [(&[&str], i32); 5] = [
        (&["benchmark", "--steps", "1", "--warmup", "0"], 0),
        (&["profile", "--steps", "1", "--output", "trace.json"], 0),
        (&["plan"], 0),
        (&["summarize"], 0),
        (&[], 3),
    ];
    for (arguments, code) in rows {
        let output = run(folder, &[arguments, &["--config", "run.toml"]].concat());
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", program::text(&output));
    }
    let left = fs::read_dir(run_folder(folder)).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(left.collect::<Vec<_>>(), ["run.lock"], "who has no lock writes nothing");
    drop(owner);
    assert_eq!(run(folder, &["--config", "run.toml"]).status.code(), Some(0));
}

#[test]
fn settings_of_earlier_starts_are_kept() {
    let folder = folder();
    for rate in ["1e-3", "1e-3", "2e-3"] {
        let set = format!("optimizer.lr={rate}");
        let output = run(folder.path(), &["--config", "run.toml", "--set", &set]);
        assert_eq!(output.status.code(), Some(0), "{}", program::text(&output));
    }
    let read = |name: &str| fs::read_to_string(run_folder(folder.path()).join(name)).unwrap();
    assert!(read("config.1.toml").contains("lr = 0.001"), "{}", read("config.1.toml"));
    assert!(read("config.toml").contains("lr = 0.002"), "{}", read("config.toml"));
    assert!(!run_folder(folder.path()).join("config.2.toml").exists());
    let rows = ["metrics.1.jsonl", "metrics.2.jsonl", "metrics.jsonl"].map(read);
    assert_eq!(rows.map(|rows| rows.lines().count()), [3, 3, 3], "no row is erased");

    // A start that is refused changes neither.
    let before = ["config.toml", "metrics.jsonl"].map(read);
    let output = run(folder.path(), &["--config", "run.toml", "--resume"]);
    assert_eq!(output.status.code(), Some(5), "{}", program::text(&output));
    assert_eq!(["config.toml", "metrics.jsonl"].map(read), before);
    assert!(!run_folder(folder.path()).join("config.2.toml").exists());
}

#[test]
fn metrics_that_cannot_be_kept_end_the_run_before_its_first_step() {
    let folder = folder();
    fs::create_dir_all(run_folder(folder.path()).join("metrics.jsonl")).unwrap();
    let output = run(folder.path(), &["--config", "run.toml"]);
    let shown = program::text(&output);
    assert_eq!(output.status.code(), Some(3), "{shown}");
    assert!(shown.contains("cannot open metrics file") && !shown.contains("step 1/"), "{shown}");
}

#[test]
fn a_run_whose_folder_is_removed_says_so_and_fails() {
    for saves in ["checkpoint.enable=true", "checkpoint.enable=false"] {
        let folder = folder();
        let arguments = [&LONG[..5], &["--set", saves]].concat();
        let mut command = program::command(folder.path(), &arguments);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        until("it trains", || steps(folder.path()).len() > 3);
        fs::rename(run_folder(folder.path()), folder.path().join("trash")).unwrap();
        let (code, shown) = ended(child);
        assert_eq!(code, Some(3), "{saves}: {shown}");
        assert!(shown.contains("was removed or replaced while the run was going on"), "{shown}");
        assert!(!run_folder(folder.path()).exists(), "it is not made again");
    }
}

/// The program with files that cannot grow beyond so many blocks of 512 bytes, as on a full disk.
#[cfg(unix)]
fn with_full_disk(folder: &Path, blocks: usize, arguments: &[&str]) -> Output {
    let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &script, program::PROGRAM]).args(arguments);
    command.current_dir(folder).env_clear().env("NO_COLOR", "1").output().unwrap()
}

#[cfg(unix)]
#[test]
fn a_full_disk_costs_rows_but_a_checkpoint_that_cannot_be_written_ends_the_run() {
    let folder = folder();
    let arguments = ["--config", "run.toml", "--set", "training_parameters.steps=100"];
    let output = with_full_disk(folder.path(), 24, &arguments);
    let shown = program::text(&output);
    assert_eq!(output.status.code(), Some(0), "{shown}");
    assert_eq!(shown.matches("metrics are lost, training goes on").count(), 1, "{shown}");
    let lost = shown.split("the metrics of this run are not complete").nth(1).unwrap();
    let lost: usize = lost
        .split("lost_rows=")
        .nth(1)
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let written = steps(folder.path());
    assert!(lost > 0 && written.len() + lost == 100, "{lost} lost, {} written", written.len());
    assert_eq!(written, (1..=written.len() as u64).collect::<Vec<_>>(), "no row is torn");

    let folder = program::folder_with(TOML);
    let arguments = ["--config", "run.toml", "--set", "checkpoint.enable=true"];
    let output = with_full_disk(folder.path(), 24, &arguments);
    let shown = program::text(&output);
    assert_eq!(output.status.code(), Some(5), "{shown}");
    assert!(shown.contains("safetensors"), "{shown}");
}
