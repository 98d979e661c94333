//! The parts about speed: the 1B model, its operations one by one, and blocks of several shapes and lengths.

use std::fs;
use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use super::read::{last_object, longest_spans, peak_flops};
use super::report::Ending;
use super::run::first_line;
use super::{Bench, Found, GpuArgs, file_name, not_run};

/// Tokens of a step of the sweep, at every length.
const TOKENS: usize = 32 * 1024;

/// Models of the sweep: a name, and what makes the 1B configuration it. Eight layers fit on one GPU.
const SHAPES: [(&str, &[&str]); 2] = [
    ("1B, 8 layers", &["model.num_layers=8"]),
    ("8B, 8 layers", &["model.flavor=8B", "model.num_layers=8"]),
];

impl Bench {
    /// Times the large model, and the peer beside it.
    pub(super) fn large(&mut self, args: &GpuArgs) -> Result<(), String> {
        let mut sets = vec![format!("training_parameters.global_batch_size={}", args.batch)];
        sets.extend(self.peak_set());
        let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set.as_str()]).collect();
        let steps = args.steps.to_string();
        let timed = ["--config", "1b.toml", "--world-size", "1"];
        let rest =
            ["benchmark", "--json", "--warmup", "3", "--steps", &steps, "--trace", "trace.json"];
        let words = self.words(&[&timed[..], &sets[..], &rest[..]].concat());
        let name = "1B in bf16, sequence 4096";
        self.step(name, 300, &words, |_, output, peak| throughput(output, peak))?;
        self.profile(args.steps);
        for (name, switch, limit) in
            [("torch, 1B in bf16", None, 60), ("torch.compile, 1B in bf16", Some("--compile"), 90)]
        {
            if !has_torch() {
                self.skip(name, "no torch on this machine");
                continue;
            }
            let batch = args.batch.to_string();
            let words = ["python3", "torch_llama.py", "--device", "cuda", "--flavor", "1b"];
            let more = ["--bf16", "--sequence", "4096", "--batch", &batch, "--steps", &steps];
            let words = words.iter().chain(&more).copied().chain(switch);
            let words: Vec<String> = words.map(String::from).collect();
            self.step(name, limit, &words, |_, output, peak| throughput(output, peak))?;
        }
        Ok(())
    }

    /// Returns the setting of the GPU's peak, if that is known.
    fn peak_set(&self) -> Option<String> {
        peak_flops(&self.report.machine).map(|flops| format!("metrics.peak_flops={flops:e}"))
    }

    /// Reports where the time of the large model went: its run has left a trace.
    fn profile(&mut self, steps: usize) {
        let mut entry = not_run("profile", "the run left no trace");
        let text = fs::read_to_string(self.folder.join("trace.json")).unwrap_or_default();
        if let Ok(trace) = serde_json::from_str(&text) {
            let total = |(name, millis): (String, f64)| (format!("{name} (ms)"), json!(millis));
            entry.figures = longest_spans(&trace, 15).into_iter().map(total).collect();
            entry.ending = Ending::Passed;
            entry.note = format!(
                "the host's time in each span over {steps} steps; trace.json is for Perfetto"
            );
        }
        self.report.entries.push(entry);
    }

    /// Times each operation at the shapes of the 1B model, and the peer's beside it.
    pub(super) fn kernels(&mut self, args: &GpuArgs) -> Result<(), String> {
        let batch = args.batch.to_string();
        let sizes = ["--batch", &batch, "--sequence", "4096"];
        let model = ["--dim", "2048", "--layers", "16", "--heads", "32", "--kv-heads", "8"];
        let rest = ["--ffn", "8192", "--vocabulary", "128256", "--json"];
        let fixed = ["bench-kernels", "--device", "cuda", "--dtype", "bf16"];
        let words = self.words(&[&fixed[..], &sizes, &model, &rest].concat());
        self.step("operations", 200, &words, |_, output, _| operations(output))?;
        for (name, switch) in
            [("operations of torch", None), ("operations of torch.compile", Some("--compile"))]
        {
            if !has_torch() {
                self.skip(name, "no torch on this machine");
                continue;
            }
            let fixed = ["python3", "torch_llama.py", "--kernels", "--device", "cuda", "--bf16"];
            let words =
                fixed.iter().chain(&["--flavor", "1b"]).chain(&sizes).copied().chain(switch);
            let words: Vec<String> = words.map(String::from).collect();
            self.step(name, 120, &words, |_, output, _| operations(output))?;
        }
        Ok(())
    }

    /// Times blocks of each shape at each length. What an earlier call into the same folder has found is not run again.
    pub(super) fn sweep(&mut self, args: &GpuArgs) -> Result<(), String> {
        let steps = args.steps.to_string();
        for (shape, sets) in SHAPES {
            for sequence in [2048, 4096, 8192, 16384, 32768] {
                for recompute in ["none", "full"] {
                    let name = format!("{shape}, sequence {sequence}, recompute {recompute}");
                    let known = self.folder.join(format!("{}.json", file_name(&name)));
                    if let Ok(text) = fs::read_to_string(&known) {
                        let mut entry = not_run(&name, "found by an earlier call");
                        entry.figures = serde_json::from_str(&text).unwrap_or_default();
                        self.report.entries.push(entry);
                        continue;
                    }
                    let mut chosen = vec![
                        format!("training_parameters.sequence_length={sequence}"),
                        format!("device_parameters.activation_checkpointing={recompute}"),
                    ];
                    chosen.extend(sets.iter().map(|set| (*set).to_owned()));
                    chosen.extend(self.peak_set());
                    let batch = (TOKENS / sequence).max(1);
                    chosen.push(format!("training_parameters.global_batch_size={batch}"));
                    let chosen: Vec<&str> =
                        chosen.iter().flat_map(|set| ["--set", set.as_str()]).collect();
                    let timed = ["--config", "1b.toml", "--world-size", "1"];
                    let rest = ["benchmark", "--json", "--warmup", "2", "--steps", &steps];
                    let words = self.words(&[&timed[..], &chosen, &rest].concat());
                    self.step(&name, 150, &words, |_, output, peak| {
                        let (figures, note) = throughput(output, peak)?;
                        let text = Value::Object(figures.clone()).to_string();
                        fs::write(&known, text).map_err(|error| error.to_string())?;
                        Ok((figures, note))
                    })?;
                }
            }
        }
        Ok(())
    }
}

/// Whether there is something to compare with. To ask takes seconds.
fn has_torch() -> bool {
    static FOUND: LazyLock<bool> = LazyLock::new(|| {
        first_line("python3", &["-c", "import torch; print(torch.__version__)"]).is_some()
    });
    *FOUND
}

/// Reads the times of operations, forward and backward.
fn operations(output: &str) -> Found {
    let found = last_object(output).ok_or("no figures were printed")?;
    let rows = found["kernels"].as_array().ok_or("no operations were printed")?;
    let mut figures = Map::new();
    for row in rows {
        let name = row["name"].as_str().unwrap_or_default();
        for direction in ["forward", "backward"] {
            let seconds = row[format!("{direction}_seconds")].as_f64().unwrap_or_default();
            if seconds > 0.0 {
                figures.insert(format!("{name}, {direction} (ms)"), json!(seconds * 1e3));
            }
        }
    }
    Ok((figures, format!("{} operations", rows.len())))
}

/// Reads the figures of a timed run.
fn throughput(output: &str, peak_gpu_mib: Option<u64>) -> Found {
    let found = last_object(output).ok_or("no figures were printed")?;
    let figure = |key: &str| found[key].as_f64().or_else(|| found[key]["median"].as_f64());
    let mut figures = Map::new();
    for key in ["tokens_per_second", "step_seconds", "mfu_percent", "peak_gpu_bytes"] {
        figures.extend(figure(key).map(|value| (key.to_owned(), json!(value))));
    }
    figures.extend(peak_gpu_mib.map(|mib| ("peak_gpu_mib by nvidia-smi".to_owned(), json!(mib))));
    let rate = figure("tokens_per_second").ok_or("no tokens per second were printed")?;
    let mfu = figure("mfu_percent").map_or_else(String::new, |mfu| format!(", MFU {mfu:.1} %"));
    Ok((figures, format!("{rate:.0} tokens/s{mfu}")))
}
