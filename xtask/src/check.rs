//! Everything CI checks, in its order.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::claims;
use crate::command::{self, root};

/// Runs all checks and stops at the first that fails.
pub(crate) fn run() -> Result<(), String> {
    command::run("cargo", &["fmt", "--all", "--", "--check"])?;
    tidy()?;
    command::run("cargo", &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    command::run("cargo", &["test"])?;
    command::run_with(
        "cargo",
        &["doc", "--workspace", "--no-deps"],
        &[("RUSTDOCFLAGS", "-D warnings")],
    )
}

/// Checks the feature `mpi`, with the features of everything else as in [`run`], so that only the
/// trainer is built again.
pub(crate) fn run_mpi() -> Result<(), String> {
    let features = ["--workspace", "--features", "mpi"];
    let lints = [&["clippy"], &features[..], &["--", "-D", "warnings"]].concat();
    let tests = [&["test"], &features[..], &["--test", "mpi"]].concat();
    command::run("cargo", &lints)?;
    command::run("cargo", &tests)
}

/// Longest Rust file, flat tables aside.
const MAX_LINES: usize = 400;

/// Checks what no other tool does: file headers, sizes and absolute paths.
fn tidy() -> Result<(), String> {
    let mut problems = Vec::new();
    let mut functions = BTreeSet::new();
    for folder in ["src", "trainer", "models", "examples", "xtask", "tests", "benches"] {
        rust_files(&root().join(folder), &mut |path, text| {
            let shown = path.strip_prefix(root()).unwrap_or(path).display();
            if !text.starts_with("//!") {
                problems.push(format!("{shown}: the first line is not a `//!` header"));
            }
            let lines = text.lines().count();
            if lines > MAX_LINES {
                problems.push(format!("{shown}: {lines} lines, more than {MAX_LINES}"));
            }
            if text.contains(concat!("/", "home/")) || text.contains(concat!("/", "Users/")) {
                problems.push(format!("{shown}: holds an absolute path"));
            }
            functions.extend(claims::functions(text));
        })?;
    }
    problems.extend(claims::check(&functions)?);
    if problems.is_empty() { Ok(()) } else { Err(problems.join("\n")) }
}

fn rust_files(folder: &Path, visit: &mut impl FnMut(&Path, &str)) -> Result<(), String> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            rust_files(&path, visit)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path)
                .map_err(|error| format!("{}: {error}", path.display()))?;
            visit(&path, &text);
        }
    }
    Ok(())
}
