//! Step times of two ranks on one machine: copies, sharded units and split matrices on one global
//! batch, interleaved in one run.

use std::fmt::Write as _;

use clap::Args;

use super::{figure, measure, median};

/// How long to measure.
#[derive(Debug, Args)]
pub(crate) struct RanksArgs {
    /// Steps timed in each round
    #[arg(long, default_value_t = 10)]
    steps: usize,
    /// Rounds; in each, every contestant runs once
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

/// Cores that the two ranks share.
const CORES: usize = 2;

/// What is compared, and the settings that choose it. The first is the reference.
const CONTESTANTS: [(&str, &[&str]); 6] = [
    ("1 rank", &["world_size=1"]),
    ("dp 2", &["world_size=2", "preset=ddp"]),
    ("fsdp 2", &["world_size=2", "preset=fsdp"]),
    ("fsdp 2, recomputed", &["world_size=2", "preset=fsdp", "activation_checkpointing=full"]),
    ("tp 2", &["world_size=2", "tensor_parallel=2"]),
    ("tp 2, async", &["world_size=2", "tensor_parallel=2", "async_tensor_parallel=true"]),
];

/// Seconds per step, the share of them spent in collectives, and memory: one entry per round.
#[derive(Default)]
struct Series {
    seconds: Vec<f64>,
    waiting: Vec<f64>,
    peak_bytes: Vec<f64>,
}

/// Measures all contestants in turn, round by round, and returns a table of medians.
pub(super) fn table(args: &RanksArgs) -> Result<String, String> {
    let mut series: [Series; CONTESTANTS.len()] = std::array::from_fn(|_| Series::default());
    for _ in 0..args.rounds {
        for ((_, settings), series) in CONTESTANTS.iter().zip(&mut series) {
            let report = measure(CORES, "target/release/dream-train", &arguments(args, settings))?;
            series.seconds.push(figure(&report, "step_seconds")?);
            series.waiting.push(figure(&report, "communication_share")?);
            series.peak_bytes.push(figure(&report, "peak_memory_bytes")?);
        }
    }
    let reference = median(&series[1].seconds);
    let mut table = String::from(
        "| two ranks as threads | step ms, median | tokens/s to dp 2 | in collectives | peak MiB of both |\n\
         | --- | --- | --- | --- | --- |\n",
    );
    for ((name, _), series) in CONTESTANTS.iter().zip(&series) {
        let (seconds, waiting) = (median(&series.seconds), 100.0 * median(&series.waiting));
        let peak = median(&series.peak_bytes) / f64::from(1 << 20);
        let (step, ratio) = (1e3 * seconds, reference / seconds);
        // Writing to a string does not fail.
        let _ = writeln!(table, "| {name} | {step:.1} | {ratio:.3} | {waiting:.1} % | {peak:.0} |");
    }
    Ok(table)
}

fn arguments(args: &RanksArgs, settings: &[&str]) -> Vec<String> {
    let steps = args.steps.to_string();
    let fixed = ["benchmark", "--config", "configs/llama3_debug.toml", "--json", "--steps", &steps];
    let mut arguments: Vec<String> = fixed.map(String::from).into();
    for setting in settings {
        arguments.extend(["--set".to_owned(), format!("device_parameters.{setting}")]);
    }
    arguments
}
