//! Step times of the trainer, of a bare Burn loop and of `PyTorch`, interleaved in one run.

mod parallel;

use std::fmt::Write as _;

use clap::Args;

use crate::command::{capture, run};

/// How long to measure.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Steps timed in each round
    #[arg(long, default_value_t = 20)]
    steps: usize,
    /// Rounds; in each, every contestant runs once
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

struct Contestant {
    name: &'static str,
    program: &'static str,
    arguments: Vec<String>,
    tokens_per_second: Vec<f64>,
}

/// Builds, measures and prints medians and ratios to the trainer.
#[expect(clippy::print_stdout, reason = "the result of a benchmark")]
pub(crate) fn run_bench(args: &BenchArgs) -> Result<(), String> {
    // One command for both, so that their dependencies are built once, with the same features.
    run("cargo", &["build", "--release", "--bins", "--examples"])?;
    let mut contestants = contestants(args.steps);
    for _ in 0..args.rounds {
        for contestant in &mut contestants {
            let arguments: Vec<&str> = contestant.arguments.iter().map(String::as_str).collect();
            let output = capture(contestant.program, &arguments)?;
            contestant.tokens_per_second.push(tokens_per_second(&output)?);
        }
    }
    let reference = median(&contestants[0].tokens_per_second);
    let mut table =
        String::from("| what | tokens/s, median | trainer / this |\n| --- | --- | --- |\n");
    for contestant in &contestants {
        let found = median(&contestant.tokens_per_second);
        // Writing to a string does not fail.
        let _ = writeln!(table, "| {} | {found:.0} | {:.3} |", contestant.name, reference / found);
    }
    println!("{table}");
    println!("{}", parallel::table(args.steps, args.rounds)?);
    Ok(())
}

fn contestants(steps: usize) -> Vec<Contestant> {
    let contestant = |name, program, arguments: &[&str]| Contestant {
        name,
        program,
        arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
        tokens_per_second: Vec::new(),
    };
    let steps = steps.to_string();
    let trainer =
        ["benchmark", "--config", "configs/llama3_debug.toml", "--json", "--steps", &steps];
    let mut all = vec![
        contestant("dream-train", "target/release/dream-train", &trainer),
        contestant("bare Burn loop, same kernels", "target/release/examples/bare_loop", &[&steps]),
    ];
    if capture("python3", &["-c", "import torch"]).is_ok() {
        let peer = ["benches/peer/torch_llama.py", "--steps", &steps];
        all.push(contestant("PyTorch eager", "python3", &peer));
        let compiled = ["benches/peer/torch_llama.py", "--steps", &steps, "--compile"];
        all.push(contestant("PyTorch compiled", "python3", &compiled));
    }
    all
}

/// Reads the last line of JSON that a contestant printed.
fn report(output: &str) -> Result<serde_json::Value, String> {
    let line = output
        .lines()
        .rev()
        .find(|line| line.starts_with('{'))
        .ok_or("a contestant printed no JSON")?;
    serde_json::from_str(line).map_err(|error| format!("a contestant printed bad JSON: {error}"))
}

/// Reads the figure, a number or a spread with a median.
fn tokens_per_second(output: &str) -> Result<f64, String> {
    let value = report(output)?;
    let figure = &value["tokens_per_second"];
    let number = figure.as_f64().or_else(|| figure["median"].as_f64());
    number.ok_or_else(|| "a contestant printed no `tokens_per_second`".into())
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
