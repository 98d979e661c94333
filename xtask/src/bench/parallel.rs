//! Step times of two ranks on one machine: copies, sharded units and split matrices on one global
//! batch, interleaved in one run.

use std::fmt::Write as _;

use super::{median, report};
use crate::command::capture;

/// What is compared, and the settings that choose it. The first is the reference.
const CONTESTANTS: [(&str, &[&str]); 5] = [
    ("1 rank", &["world_size=1"]),
    ("dp 2", &["world_size=2", "preset=ddp"]),
    ("fsdp 2", &["world_size=2", "preset=fsdp"]),
    ("tp 2", &["world_size=2", "tensor_parallel=2"]),
    ("tp 2, async", &["world_size=2", "tensor_parallel=2", "async_tensor_parallel=true"]),
];

/// Seconds per step, and the share of them spent in collectives, one entry per round.
#[derive(Default)]
struct Series {
    seconds: Vec<f64>,
    waiting: Vec<f64>,
}

/// Measures all contestants in turn, round by round, and returns a table of medians.
pub(super) fn table(steps: usize, rounds: usize) -> Result<String, String> {
    let mut series: [Series; CONTESTANTS.len()] = std::array::from_fn(|_| Series::default());
    for _ in 0..rounds {
        for ((_, settings), series) in CONTESTANTS.iter().zip(&mut series) {
            let measured = measure(steps, settings)?;
            let figure = |path: &str| {
                let found = measured.pointer(path).and_then(serde_json::Value::as_f64);
                found.ok_or_else(|| format!("`dream-train benchmark` printed no `{path}`"))
            };
            series.seconds.push(figure("/step_seconds/median")?);
            series.waiting.push(figure("/communication_share")?);
        }
    }
    let reference = median(&series[1].seconds);
    let mut table = String::from(
        "| two ranks as threads | step, median | to dp 2 | in collectives |\n| --- | --- | --- | --- |\n",
    );
    for ((name, _), series) in CONTESTANTS.iter().zip(&series) {
        let (seconds, waiting) = (median(&series.seconds), 100.0 * median(&series.waiting));
        // Writing to a string does not fail.
        let _ = writeln!(
            table,
            "| {name} | {:.1} ms | {:.3} | {waiting:.1}% |",
            1e3 * seconds,
            seconds / reference
        );
    }
    Ok(table)
}

fn measure(steps: usize, settings: &[&str]) -> Result<serde_json::Value, String> {
    let steps = steps.to_string();
    let mut arguments: Vec<String> =
        ["benchmark", "--config", "configs/llama3_debug.toml", "--json", "--steps", &steps]
            .map(str::to_owned)
            .to_vec();
    for setting in settings {
        arguments.extend(["--set".to_owned(), format!("device_parameters.{setting}")]);
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    report(&capture("target/release/dream-train", &arguments)?)
}
