//! The program as a user runs it, in a clean environment.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

use std::path::Path;
use std::process::{Command, Output};

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_dream-train");

/// A call of the program in a folder. Launchers of the machine that runs the tests are none of its
/// business, so it sees no variable of theirs.
pub fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).current_dir(folder).env_clear().env("NO_COLOR", "1");
    command
}

/// What it printed on both streams.
pub fn text(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&both).into_owned()
}

/// A new folder with a configuration in `run.toml`.
pub fn folder_with(toml: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("run.toml"), toml).unwrap();
    folder
}

/// Returns a signal by its name, as `kill` takes it, or `-TERM` if this process was started with it
/// ignored, as background jobs of a script are with interrupts: the program under test leaves it so.
pub fn heeded(signal_name: &str) -> &str {
    let number = match signal_name {
        "-HUP" => 1,
        "-INT" => 2,
        _ => return signal_name,
    };
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let is_ignored = ignored.is_some_and(|mask| (mask >> (number - 1)) & 1 == 1);
    if is_ignored { "-TERM" } else { signal_name }
}
