//! Benchmarks beside other programs, interleaved in one run: `cargo xtask bench [steps|kernels|ranks]`.

mod kernels;
mod ranks;
mod steps;

use clap::{Args, Command, Subcommand};
use serde_json::Value;

use crate::command::{capture, run};

/// What to measure.
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// Whole steps and peak memory, beside a bare loop and beside `PyTorch`
    Steps(steps::StepsArgs),
    /// Every fused operation, forward and backward, beside `PyTorch`
    Kernels(kernels::KernelsArgs),
    /// Two ranks as threads: copies, shards and split matrices on one global batch
    Ranks(ranks::RanksArgs),
}

/// Builds, measures and prints a table; all of them, with their defaults, if none is named.
#[expect(clippy::print_stdout, reason = "the result of a benchmark")]
pub(crate) fn run_bench(bench: Option<Bench>) -> Result<(), String> {
    // One command for both, so that their dependencies are built once, with the same features.
    run("cargo", &["build", "--release", "--bins", "--examples"])?;
    let all =
        || [Bench::Steps(defaults()), Bench::Kernels(defaults()), Bench::Ranks(defaults())].into();
    for bench in bench.map_or_else(all, |bench| vec![bench]) {
        let table = match &bench {
            Bench::Steps(args) => steps::table(args),
            Bench::Kernels(args) => kernels::table(args),
            Bench::Ranks(args) => ranks::table(args),
        }?;
        println!("{table}");
    }
    Ok(())
}

/// Returns what a command takes where nothing is given.
fn defaults<A: Args>() -> A {
    let matches = A::augment_args(Command::new("defaults")).get_matches_from(["defaults"]);
    A::from_arg_matches(&matches).expect("every argument has a default")
}

/// Runs a program on the first `threads` cores and returns the last line of JSON that it printed.
fn measure(threads: usize, program: &str, arguments: &[String]) -> Result<Value, String> {
    let cores = format!("0-{}", threads.saturating_sub(1));
    let mut line = vec!["--cpu-list", &cores, program];
    line.extend(arguments.iter().map(String::as_str));
    report(&capture("taskset", &line)?)
}

/// Reads the last line of JSON that a program printed.
fn report(output: &str) -> Result<Value, String> {
    let line = output
        .lines()
        .rev()
        .find(|line| line.starts_with('{'))
        .ok_or("a contestant printed no JSON")?;
    serde_json::from_str(line).map_err(|error| format!("a contestant printed bad JSON: {error}"))
}

/// Reads a figure, a number or a spread with a median.
fn figure(report: &Value, key: &str) -> Result<f64, String> {
    let figure = &report[key];
    let number = figure.as_f64().or_else(|| figure["median"].as_f64());
    number.ok_or_else(|| format!("a contestant printed no `{key}`"))
}

fn has_torch() -> bool {
    capture("python3", &["-c", "import torch"]).is_ok()
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    }
}
