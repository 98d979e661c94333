//! Every fused operation at the shapes of a debug Llama, beside the same operation of `PyTorch`.

use std::fmt::Write as _;

use clap::Args;
use serde_json::Value;

use super::{figure, has_torch, measure, median};

/// How long to measure, and where.
#[derive(Debug, Args)]
pub(crate) struct KernelsArgs {
    /// Rounds; in each, both programs run once
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Sequence lengths; the batch holds 2048 tokens, at least one sequence
    #[arg(long, value_delimiter = ',', default_value = "256,4096")]
    sequences: Vec<usize>,
    /// Number of threads
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

/// Seconds forward and backward, one entry per round.
type Times = [Vec<f64>; 2];

/// An operation as both programs measured it.
struct Row {
    name: String,
    per_step: f64,
    work: [f64; 2],
    unit: String,
    ours: Times,
    peer: Times,
}

/// Measures both programs in turn and returns one table for each sequence length.
pub(super) fn table(args: &KernelsArgs) -> Result<String, String> {
    let torch = has_torch();
    let mut text = String::new();
    for &sequence in &args.sequences {
        let mut rows: Vec<Row> = Vec::new();
        for _ in 0..args.rounds {
            for row in run(args.threads, sequence, "target/release/dream-train")? {
                let name = row["name"].as_str().unwrap_or_default();
                let known = rows.iter_mut().find(|known| known.name == name);
                match known {
                    Some(known) => add(&mut known.ours, &row)?,
                    None => rows.push(Row::new(&row)?),
                }
            }
            if torch {
                for row in run(args.threads, sequence, "python3")? {
                    if let Some(known) = rows.iter_mut().find(|known| row["name"] == known.name) {
                        add(&mut known.peer, &row)?;
                    }
                }
            }
        }
        let batch = (2048 / sequence).max(1);
        // Writing to a string does not fail.
        let _ = writeln!(text, "{batch} x {sequence} tokens, {} threads\n", args.threads);
        write_rows(&mut text, &rows);
    }
    Ok(text)
}

fn run(threads: usize, sequence: usize, program: &str) -> Result<Vec<Value>, String> {
    let batch = (2048 / sequence).max(1);
    let fixed: &[&str] = match program {
        "python3" => &["benches/peer/torch_llama.py", "--kernels"],
        _ => &["bench-kernels", "--json"],
    };
    let mut arguments: Vec<String> = fixed.iter().map(|&argument| argument.to_owned()).collect();
    arguments.extend(["--sequence".into(), sequence.to_string()]);
    arguments.extend(["--batch".into(), batch.to_string()]);
    let report = measure(threads, program, &arguments)?;
    report["kernels"].as_array().cloned().ok_or_else(|| "a contestant printed no kernels".into())
}

fn add(times: &mut Times, row: &Value) -> Result<(), String> {
    times[0].push(figure(row, "forward_seconds")?);
    times[1].push(figure(row, "backward_seconds")?);
    Ok(())
}

impl Row {
    fn new(row: &Value) -> Result<Self, String> {
        let mut ours = Times::default();
        add(&mut ours, row)?;
        Ok(Self {
            name: row["name"].as_str().unwrap_or_default().to_owned(),
            per_step: figure(row, "per_step")?,
            work: [figure(row, "forward_work")?, figure(row, "backward_work")?],
            unit: row["unit"].as_str().unwrap_or_default().to_owned(),
            ours,
            peer: Times::default(),
        })
    }

    fn seconds(times: &Times) -> [f64; 2] {
        times.each_ref().map(|times| if times.is_empty() { f64::NAN } else { median(times) })
    }

    fn per_step_seconds(&self) -> f64 {
        self.per_step * Self::seconds(&self.ours).iter().sum::<f64>()
    }
}

fn write_rows(text: &mut String, rows: &[Row]) {
    let all: f64 = rows.iter().map(Row::per_step_seconds).sum();
    let _ = writeln!(
        text,
        "| operation | per step | of all | forward ms | rate | PyTorch / this | backward ms | rate | PyTorch / this |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    );
    for row in rows {
        let share = 100.0 * row.per_step_seconds() / all;
        let _ = write!(text, "| {} | {} | {share:.1} % |", row.name, row.per_step);
        let (ours, peer) = (Row::seconds(&row.ours), Row::seconds(&row.peer));
        for direction in 0..2 {
            let (seconds, other) = (ours[direction], peer[direction]);
            if seconds == 0.0 {
                let _ = write!(text, " - | - | - |");
                continue;
            }
            let rate = match row.work[direction] {
                0.0 => "-".into(),
                work => format!("{:.0} {}", work / seconds / 1e9, row.unit),
            };
            let ratio = if other.is_nan() { "-".into() } else { format!("{:.2}", other / seconds) };
            let _ = write!(text, " {:.3} | {rate} | {ratio} |", seconds * 1e3);
        }
        text.push('\n');
    }
    let _ = writeln!(text, "\nsum over a step: {:.1} ms\n", all * 1e3);
}
