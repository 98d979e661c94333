//! What was found on a GPU, as text and as JSON.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// It ran, and what it must show it shows.
    Passed,
    /// It failed, or what it shows is wrong.
    Failed,
    /// It ran into its time limit.
    TimedOut,
    /// It needs something that the machine lacks, or the time was over.
    NotRun,
}

impl Ending {
    fn word(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "FAILED",
            Self::TimedOut => "TIMED OUT",
            Self::NotRun => "not run",
        }
    }
}

/// A step, and what came of it.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) ending: Ending,
    pub(super) seconds: f64,
    /// What was run, as a shell reads it.
    pub(super) command: String,
    /// What there is to say about it.
    pub(super) note: String,
    /// Figures by name.
    pub(super) figures: Map<String, Value>,
}

/// Everything that was found.
#[derive(Debug, Clone, Default)]
pub(super) struct Report {
    pub(super) machine: String,
    pub(super) entries: Vec<Entry>,
}

impl Report {
    /// Tells whether a step failed or took too long.
    pub(super) fn has_failures(&self) -> bool {
        let bad = [Ending::Failed, Ending::TimedOut];
        self.entries.iter().any(|entry| bad.contains(&entry.ending))
    }

    pub(super) fn to_json(&self) -> Value {
        let entry = |entry: &Entry| {
            json!({
                "name": entry.name,
                "ending": entry.ending.word().to_lowercase(),
                "seconds": rounded(entry.seconds),
                "command": entry.command,
                "note": entry.note,
                "figures": entry.figures,
            })
        };
        let entries: Vec<Value> = self.entries.iter().map(entry).collect();
        json!({"machine": self.machine, "steps": entries})
    }

    pub(super) fn to_markdown(&self) -> String {
        let mut text = format!("# GPU report\n\nMachine: {}\n\n", self.machine);
        text.push_str("| step | result | seconds | found |\n| --- | --- | --- | --- |\n");
        for entry in &self.entries {
            let (name, ending) = (&entry.name, entry.ending.word());
            let note = entry.note.lines().next().unwrap_or_default();
            // Writing to a string cannot fail.
            let _ = writeln!(text, "| {name} | {ending} | {:.1} | {note} |", entry.seconds);
        }
        for entry in &self.entries {
            let _ = write!(text, "\n## {}\n\n", entry.name);
            if !entry.command.is_empty() {
                let _ = write!(text, "```sh\n{}\n```\n\n", entry.command);
            }
            if !entry.note.is_empty() {
                let _ = write!(text, "{}\n\n", entry.note.trim_end());
            }
            if !entry.figures.is_empty() {
                text.push_str("| figure | value |\n| --- | --- |\n");
                for (name, value) in &entry.figures {
                    let _ = writeln!(text, "| {name} | {} |", shown(value));
                }
            }
        }
        text
    }
}

fn rounded(seconds: f64) -> f64 {
    (seconds * 10.0).round() / 10.0
}

/// Writes a figure with four digits that count.
fn shown(value: &Value) -> String {
    match value.as_f64().filter(|_| !value.is_u64()) {
        Some(number) if number != 0.0 && !(1e-3..1e7).contains(&number.abs()) => {
            format!("{number:.3e}")
        }
        Some(number) => {
            let digits = 3 - number.abs().max(1.0).log10().floor() as i32;
            format!("{number:.*}", digits.max(0) as usize)
        }
        None => value.as_str().map_or_else(|| value.to_string(), str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, ending: Ending, seconds: f64, note: &str) -> Entry {
        let (name, command, note) = (name.to_owned(), String::new(), note.to_owned());
        Entry { name, ending, seconds, command, note, figures: Map::new() }
    }

    fn report() -> Report {
        let mut benchmark = entry("benchmark", Ending::Passed, 93.27, "12,345 tokens/s");
        benchmark.command = "dream-train benchmark --json".to_owned();
        let figures = json!({
            "tokens_per_second": 12_345.678, "mfu_percent": 41.237, "peak_gpu_mib": 23_456,
            "largest_difference": 4.2e-5, "gpu": "a GPU",
        });
        benchmark.figures = figures.as_object().cloned().unwrap_or_default();
        let entries = vec![
            entry("selftest", Ending::Failed, 3.0, "2 of 40 checks failed\nrank 1: something"),
            benchmark,
            entry("torch", Ending::NotRun, 0.0, "no torch on this machine"),
            entry("profile", Ending::TimedOut, 60.04, "ended after 60 s"),
        ];
        Report { machine: "a GPU, driver 1.2".to_owned(), entries }
    }

    const MARKDOWN: &str = "\
# GPU report

Machine: a GPU, driver 1.2

| step | result | seconds | found |
| --- | --- | --- | --- |
| selftest | FAILED | 3.0 | 2 of 40 checks failed |
| benchmark | passed | 93.3 | 12,345 tokens/s |
| torch | not run | 0.0 | no torch on this machine |
| profile | TIMED OUT | 60.0 | ended after 60 s |

## selftest

2 of 40 checks failed
rank 1: something


## benchmark

```sh
dream-train benchmark --json
```

12,345 tokens/s

| figure | value |
| --- | --- |
| tokens_per_second | 12346 |
| mfu_percent | 41.24 |
| peak_gpu_mib | 23456 |
| largest_difference | 4.200e-5 |
| gpu | a GPU |

## torch

no torch on this machine


## profile

ended after 60 s

";

    #[test]
    fn a_report_reads_like_this() {
        assert_eq!(report().to_markdown(), MARKDOWN);
    }

    #[test]
    fn a_report_in_json_holds_every_figure_as_it_is() {
        let value = report().to_json();
        assert_eq!(value["steps"][1]["figures"]["tokens_per_second"], json!(12_345.678));
        assert_eq!(value["steps"][0]["ending"], json!("failed"));
        assert_eq!(value["steps"][3]["seconds"], json!(60.0));
        assert_eq!(value["machine"], json!("a GPU, driver 1.2"));
    }

    #[test]
    fn failures_and_time_limits_count_and_what_was_not_run_does_not() {
        let of = |endings: &[Ending]| {
            let entries = endings.iter().map(|ending| entry("x", *ending, 0.0, "")).collect();
            Report { machine: String::new(), entries }.has_failures()
        };
        assert!(!of(&[Ending::Passed, Ending::NotRun]));
        assert!(of(&[Ending::Passed, Ending::Failed]) && of(&[Ending::TimedOut]));
    }
}
