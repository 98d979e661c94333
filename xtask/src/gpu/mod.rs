//! `cargo xtask gpu`: everything there is to find out on a lent GPU, in one call of less than ten
//! minutes.
//!
//! It needs the built program and nothing of the repository: configurations and the peer are in this
//! binary. So two files are enough on a machine without Rust: `xtask gpu --program dream-train`. A step
//! that fails or takes too long is reported, and the next one runs.

mod large;
mod read;
mod report;
mod run;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Map, Value, json};

use read::{differences, losses};
use report::{Ending, Entry, Report};
use run::{absolute, first_line, run, shown};

const DEBUG: &str = include_str!("debug.toml");
const BILLION: &str = include_str!("1b.toml");
const PEER: &str = include_str!("../../../benches/peer/torch_llama.py");

/// How far a loss in `f32` may be from that of another device or mesh, relatively: at the first step, and after some.
/// Products are rounded to `f32` where cuBLASLt computes them; without it they are TF32, and this fails.
const F32: (f64, f64) = (2e-6, 1e-5);

/// What to run, and for how long.
#[derive(Debug, Args)]
pub(crate) struct GpuArgs {
    /// The built program
    #[arg(long, value_name = "FILE", default_value = "target/release/dream-train")]
    program: PathBuf,
    /// Folder that receives `report.md`, `report.json` and what every step printed
    #[arg(long, value_name = "DIR", default_value = "outputs/gpu")]
    output: PathBuf,
    /// What to find out; everything if none is named. The first steps of a run compile and tune its
    /// kernels, so on a slow processor the parts may need a call each
    #[arg(long, value_enum, value_delimiter = ',')]
    part: Vec<Part>,
    /// Seconds for everything; what does not fit any more is not run
    #[arg(long, value_name = "SECONDS", default_value_t = 570)]
    budget: u64,
    /// Sequences per step of the large model
    #[arg(long, value_name = "N", default_value_t = 2)]
    batch: usize,
    /// Steps that are timed
    #[arg(long, value_name = "N", default_value_t = 8)]
    steps: usize,
}

/// Questions to a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Whether every collective is right, on one and two ranks
    Collectives,
    /// Whether losses are those of the CPU, and those of several ranks those of one
    Parity,
    /// How fast the 1B model is, beside PyTorch, and where the time goes
    Speed,
    /// How fast each operation is, beside PyTorch
    Kernels,
    /// How fast blocks of the 1B and 8B shapes are at several lengths, with and without recomputation
    Sweep,
}

/// Runs all steps and writes the report; fails if a step did.
#[expect(clippy::print_stdout, reason = "the result of a measurement")]
pub(crate) fn run_all(args: &GpuArgs) -> Result<(), String> {
    let told = |error: std::io::Error| format!("{}: {error}", args.output.display());
    fs::create_dir_all(&args.output).map_err(told)?;
    let folder = absolute(&args.output)?;
    for (name, text) in [("debug.toml", DEBUG), ("1b.toml", BILLION), ("torch_llama.py", PEER)] {
        fs::write(folder.join(name), text).map_err(told)?;
    }
    let query = ["--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"];
    let machine = first_line("nvidia-smi", &query).unwrap_or_else(|| "no nvidia-smi".to_owned());
    let mut bench = Bench {
        program: absolute(&args.program)?.display().to_string(),
        folder,
        ends_at: Instant::now() + Duration::from_secs(args.budget),
        report: Report { machine, entries: Vec::new() },
    };
    bench.all(args)?;
    println!("{}", bench.report.to_markdown());
    if bench.report.has_failures() { Err("a step failed".to_owned()) } else { Ok(()) }
}

struct Bench {
    program: String,
    folder: PathBuf,
    ends_at: Instant,
    report: Report,
}

/// What a step found: figures, and a sentence. An error is a failed step.
type Found = Result<(Map<String, Value>, String), String>;

impl Bench {
    fn all(&mut self, args: &GpuArgs) -> Result<(), String> {
        let found = |output: &str| -> Found { Ok((Map::new(), last_line(output))) };
        let doctor = self.words(&["doctor"]);
        self.step("doctor", 30, &doctor, |_, output, _| found(output))?;
        let asks = |part| args.part.is_empty() || args.part.contains(&part);
        if asks(Part::Collectives) {
            self.collectives()?;
        }
        if asks(Part::Parity) {
            self.losses()?;
        }
        if asks(Part::Speed) {
            self.large(args)?;
        }
        if asks(Part::Kernels) {
            self.kernels(args)?;
        }
        if asks(Part::Sweep) {
            self.sweep(args)?;
        }
        self.write()
    }

    fn collectives(&mut self) -> Result<(), String> {
        let found = |output: &str| -> Found { Ok((Map::new(), last_line(output))) };
        for (name, ranks) in [("selftest, 1 rank", "1"), ("selftest, 2 ranks on one GPU", "2")] {
            if let (Some(why), "2") = (self.cannot_share(), ranks) {
                self.skip(name, &why);
                continue;
            }
            let words = self.words(&["selftest", "--device", "cuda", "--world-size", ranks]);
            self.step(name, 60, &words, |_, output, _| found(output))?;
        }
        Ok(())
    }

    fn losses(&mut self) -> Result<(), String> {
        for (device, limit) in [("cpu", 60), ("cuda", 150)] {
            let words = self.training(device, device, 1, &[]);
            let name = if device == "cpu" { "losses on the CPU" } else { "losses on the GPU" };
            self.step(name, limit, &words, |bench, _, _| bench.parity(device, "cpu"))?;
        }
        let preset = "device_parameters.preset=fsdp";
        for (name, run, ranks, kind) in [
            ("2 threads on one GPU", "threads2", 2, "threads"),
            ("4 threads on one GPU", "threads4", 4, "threads"),
            ("2 ranks on one GPU over NCCL", "cuda2", 2, "processes"),
            ("4 ranks on one GPU over NCCL", "cuda4", 4, "processes"),
        ] {
            if let (Some(why), "processes") = (self.cannot_share(), kind) {
                self.skip(name, &why);
                continue;
            }
            let kind = format!("device_parameters.ranks={kind}");
            let words = self.training(run, "cuda", ranks, &[preset, &kind]);
            self.step(name, 180, &words, |bench, _, _| bench.parity(run, "cuda"))?;
        }
        Ok(())
    }

    /// Says why ranks that are processes cannot share the GPU, if they cannot: what `doctor` found.
    fn cannot_share(&self) -> Option<String> {
        let doctor = fs::read_to_string(self.folder.join("doctor.log")).unwrap_or_default();
        let line = doctor.lines().find(|line| line.contains("those that share a GPU must be"));
        line.map(|line| line.split_whitespace().skip(3).collect::<Vec<_>>().join(" "))
    }

    fn words(&self, arguments: &[&str]) -> Vec<String> {
        let program = std::iter::once(self.program.as_str());
        program.chain(arguments.iter().copied()).map(String::from).collect()
    }

    /// Returns the command of a short run of the debug model in `f32`.
    fn training(&self, run: &str, device: &str, ranks: usize, more: &[&str]) -> Vec<String> {
        let mut words = self.words(&["--config", "debug.toml", "--world-size", &ranks.to_string()]);
        let sets = [format!("device_parameters.device={device}"), format!("run.experiment={run}")];
        let more = more.iter().map(|set| (*set).to_owned());
        for set in sets.into_iter().chain(more) {
            words.extend(["--set".to_owned(), set]);
        }
        words
    }

    /// Compares the losses of a run with those of another; the first has nothing to be compared with.
    fn parity(&self, run: &str, with: &str) -> Found {
        let file =
            |run: &str| self.folder.join("runs/parity/llama3").join(run).join("metrics.jsonl");
        let ours = losses(&file(run))?;
        let last = ours.values().next_back().copied().unwrap_or_default();
        let mut figures = Map::from_iter([("last loss".to_owned(), json!(last))]);
        if run == with {
            return Ok((figures, format!("{} steps", ours.len())));
        }
        let (first, largest) = differences(&ours, &losses(&file(with))?)?;
        figures.insert("difference at step 1".to_owned(), json!(first));
        figures.insert("largest difference".to_owned(), json!(largest));
        let text = format!(
            "relative to the run `{with}`: {first:.1e} at step 1 (at most {:.0e}), {largest:.1e} over {} steps (at most {:.0e}); in `f32`",
            F32.0,
            ours.len(),
            F32.1
        );
        if first > F32.0 || largest > F32.1 { Err(text) } else { Ok((figures, text)) }
    }

    /// Runs a command within its time, reads what it found, and writes the report so far.
    fn step(
        &mut self,
        name: &str,
        limit: u64,
        words: &[String],
        read: impl FnOnce(&Self, &str, Option<u64>) -> Found,
    ) -> Result<(), String> {
        let left = self.ends_at.saturating_duration_since(Instant::now());
        if left < Duration::from_secs(5) {
            self.skip(name, "the time was over");
            return self.write();
        }
        let log = self.folder.join(format!("{}.log", file_name(name)));
        let limit = Duration::from_secs(limit).min(left);
        let mut entry = Entry {
            name: name.to_owned(),
            ending: Ending::Failed,
            seconds: 0.0,
            command: shown(words),
            note: String::new(),
            figures: Map::new(),
        };
        match run(words, &self.folder, &log, limit) {
            Ok(ran) if ran.has_timed_out => {
                entry.seconds = ran.seconds;
                entry.ending = Ending::TimedOut;
                entry.note = format!("ended after {} s\n{}", limit.as_secs(), tail(&ran.output));
            }
            Ok(ran) if !ran.is_success => {
                entry.seconds = ran.seconds;
                entry.note = tail(&ran.output);
            }
            Ok(ran) => {
                entry.seconds = ran.seconds;
                match read(self, &ran.output, ran.peak_gpu_mib) {
                    Ok((figures, note)) => {
                        (entry.ending, entry.figures, entry.note) = (Ending::Passed, figures, note);
                    }
                    Err(note) => entry.note = note,
                }
            }
            Err(note) => entry.note = note,
        }
        self.report.entries.push(entry);
        self.write()
    }

    fn skip(&mut self, name: &str, why: &str) {
        self.report.entries.push(not_run(name, why));
    }

    /// Writes what is there, so that nothing is lost if the machine goes.
    fn write(&self) -> Result<(), String> {
        let json = serde_json::to_string_pretty(&self.report.to_json());
        let json = json.map_err(|error| error.to_string())? + "\n";
        for (name, text) in [("report.md", self.report.to_markdown()), ("report.json", json)] {
            let path = self.folder.join(name);
            fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok(())
    }
}

/// Returns a step's name as that of a file.
fn file_name(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

fn not_run(name: &str, why: &str) -> Entry {
    Entry {
        name: name.to_owned(),
        ending: Ending::NotRun,
        seconds: 0.0,
        command: String::new(),
        note: why.to_owned(),
        figures: Map::new(),
    }
}

fn last_line(output: &str) -> String {
    output.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().trim().to_owned()
}

/// Returns the last lines of what a program printed.
fn tail(output: &str) -> String {
    let lines: Vec<&str> = output.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

#[cfg(all(test, unix))]
mod tests;
