//! Runs whose ranks are processes: a small model, what it wrote, and what happens to its processes.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::program::{folder_with, text};

/// Far above what any of these runs takes, far below the time limits that would end a hang.
pub const PROMPT: Duration = Duration::from_mins(2);

/// Six steps of a model that four ranks can split.
pub const TOML: &str = r#"
[model]
name = "llama3"
dim = 32
num_layers = 2
num_heads = 4
num_kv_heads = 2
ffn_dim = 64
vocab_size = 96
[training_parameters]
steps = 6
global_batch_size = 8
sequence_length = 16
num_sanity_val_steps = 0
[data]
source = "synthetic"
vocab_size = 96
num_sequences = 64
"#;

pub fn folder() -> tempfile::TempDir {
    folder_with(TOML)
}

/// A program in a folder, in a clean environment but for where its files are.
pub fn clean(folder: &Path, program: &str) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder).env_clear();
    for name in ["PATH", "HOME", "LD_LIBRARY_PATH", "TMPDIR"] {
        command.envs(std::env::var_os(name).map(|value| (name, value)));
    }
    command.env("NO_COLOR", "1");
    command
}

/// The arguments of a run with a name and changed keys.
pub fn train(name: &str, more: &[&str]) -> Vec<String> {
    let mut arguments = vec!["--config".to_owned(), "run.toml".to_owned()];
    arguments.extend(["--set".into(), format!("run.experiment={name}")]);
    arguments.extend(more.iter().flat_map(|set| ["--set".to_owned(), (*set).to_owned()]));
    arguments
}

pub fn run_folder(folder: &Path, name: &str) -> PathBuf {
    folder.join("outputs/dream-train/default").join(name)
}

/// Loss and gradient norm of every step, as they were written.
pub fn numbers(folder: &Path, name: &str) -> Vec<(String, String)> {
    let lines = fs::read_to_string(run_folder(folder, name).join("metrics.jsonl")).unwrap();
    let row = |line: &str| {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        (row["loss"].to_string(), row["grad_norm"].to_string())
    };
    lines.lines().map(row).collect()
}

#[track_caller]
pub fn succeeds(mut command: Command) -> String {
    let output = command.output().expect("the program of the documented packages");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    text(&output)
}

/// Starts a run that is named `long`, and returns when it has begun to train.
pub fn begin(folder: &Path, mut job: Command) -> Child {
    let child = job.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let metrics = run_folder(folder, "long").join("metrics.jsonl");
    let start = Instant::now();
    while fs::read_to_string(&metrics).map_or(0, |text| text.lines().count()) < 3 {
        assert!(start.elapsed() < PROMPT, "the run did not begin");
        std::thread::sleep(Duration::from_millis(50));
    }
    child
}

/// Processes started by a process, in the order of their start.
pub fn children(of: u32) -> Vec<u32> {
    // Each thread that started some lists its own.
    let threads = fs::read_dir(format!("/proc/{of}/task")).unwrap();
    let lists = threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("children")));
    let lists: Vec<String> = lists.map(Result::unwrap_or_default).collect();
    let mut found: Vec<u32> = lists
        .iter()
        .flat_map(|list| list.split_whitespace())
        .map(|pid| pid.parse().unwrap())
        .collect();
    found.sort_unstable();
    found
}

pub fn signal(name: &str, process: u32) {
    let status = Command::new("kill").args([name, &process.to_string()]).status();
    assert!(status.unwrap().success());
}

/// Waits for the end of a run: its exit code, and what it printed.
pub fn ended(child: Child) -> (Option<i32>, String) {
    let start = Instant::now();
    let output = child.wait_with_output().unwrap();
    assert!(start.elapsed() < PROMPT, "{}", text(&output));
    (output.status.code(), text(&output))
}

/// Waits until none of these processes is left.
pub fn gone(processes: &[u32]) {
    let start = Instant::now();
    while let Some(process) = processes.iter().find(|process| is_running(**process)) {
        assert!(start.elapsed() < PROMPT, "{process} is still there");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A process that has ended may stay in the list until someone asks how.
fn is_running(process: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}
