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
