//! The speed of a run, measured after a warm-up.

use std::fmt;

use serde::Serialize;

use super::{Callback, CallbackResult, Interruption, Requests, RunView, SetupReport, Terminal};
use crate::metrics::{Spread, StepInfo, Utilization, format, peak_memory_bytes};

/// Times steps after a warm-up and prints medians at the end of the run.
///
/// Validations, checkpoints and the warm-up do not count. The median is the headline: it does not
/// move when one step is late.
pub struct Benchmark {
    terminal: Terminal,
    series: Series,
    peak_flops: Option<f64>,
    utilization: Option<Utilization>,
    is_json: bool,
    has_memory: bool,
}

/// What a benchmark found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BenchmarkReport {
    /// Steps left out at the start.
    pub warmup_steps: u64,
    /// Steps measured.
    pub measured_steps: usize,
    /// Seconds per step.
    pub step_seconds: Spread,
    /// Labels per second over all ranks.
    pub tokens_per_second: Spread,
    /// Share of the measured time spent waiting for data.
    pub data_wait_share: f64,
    /// Share of the measured time in which rank 0 waited for collectives.
    pub communication_share: f64,
    /// Model FLOPs utilization at the median step, in percent of one rank's device.
    pub mfu_percent: Option<f64>,
    /// Most memory that the process of this rank has had resident.
    pub peak_memory_bytes: Option<u64>,
    /// Most memory that it has reserved on its GPU, if it computes on one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_gpu_bytes: Option<u64>,
}

#[derive(Debug, Default)]
struct Series {
    warmup_steps: u64,
    seen_steps: u64,
    step_seconds: Vec<f64>,
    tokens_per_second: Vec<f64>,
    data_seconds: f64,
    communication_seconds: f64,
    peak_gpu_bytes: Option<u64>,
}

impl Benchmark {
    /// Returns a benchmark that leaves out the first `warmup_steps` steps of this start.
    pub fn new(terminal: Terminal, warmup_steps: u64) -> Self {
        let series = Series { warmup_steps, ..Series::default() };
        Self {
            terminal,
            series,
            peak_flops: None,
            utilization: None,
            is_json: false,
            has_memory: false,
        }
    }

    /// Prints the report as one line of JSON instead of a table.
    #[must_use]
    pub fn with_json(mut self, is_json: bool) -> Self {
        self.is_json = is_json;
        self
    }

    /// Reports the peak of the process's memory, where the system tells.
    #[must_use]
    pub fn with_memory(mut self, has_memory: bool) -> Self {
        self.has_memory = has_memory;
        self
    }

    /// Reports model FLOPs utilization, if the model tells its floating-point operations.
    #[must_use]
    pub fn with_peak_flops(mut self, peak_flops: Option<f64>) -> Self {
        self.peak_flops = peak_flops;
        self
    }

    /// Returns what was found so far, none within the warm-up.
    pub fn report(&self) -> Option<BenchmarkReport> {
        let series = &self.series;
        let step_seconds = Spread::of(&series.step_seconds)?;
        let measured: f64 = series.step_seconds.iter().sum();
        Some(BenchmarkReport {
            warmup_steps: series.warmup_steps,
            measured_steps: series.step_seconds.len(),
            step_seconds,
            tokens_per_second: Spread::of(&series.tokens_per_second)?,
            data_wait_share: series.data_seconds / measured,
            communication_share: series.communication_seconds / measured,
            mfu_percent: self.utilization.map(|known| known.percent(step_seconds.median)),
            peak_memory_bytes: self.has_memory.then(peak_memory_bytes).flatten(),
            peak_gpu_bytes: series.peak_gpu_bytes,
        })
    }

    fn print(&self) {
        let report = self.report();
        if self.is_json
            && let Ok(text) = serde_json::to_string(&report)
        {
            self.terminal.line(&text);
            return;
        }
        let text = report.map_or_else(
            || {
                let Series { warmup_steps, seen_steps, .. } = self.series;
                format!(
                    "benchmark  nothing measured: {seen_steps} steps, {warmup_steps} of warm-up"
                )
            },
            |report| report.to_string(),
        );
        self.terminal.line(&text);
    }
}

impl Callback for Benchmark {
    fn name(&self) -> &'static str {
        "benchmark"
    }

    fn post_setup(&mut self, run: &RunView, report: &SetupReport) -> CallbackResult {
        self.utilization = run.utilization(report, self.peak_flops);
        Ok(())
    }

    fn post_train_step(
        &mut self,
        _: &RunView,
        info: &StepInfo,
        _: &mut Requests,
    ) -> CallbackResult {
        let series = &mut self.series;
        series.seen_steps += 1;
        series.peak_gpu_bytes = series.peak_gpu_bytes.max(info.gpu_bytes);
        if series.seen_steps > series.warmup_steps {
            series.step_seconds.push(info.step_seconds);
            series.tokens_per_second.push(info.tokens_per_second);
            series.data_seconds += info.data_seconds;
            series.communication_seconds += info.communication_seconds;
        }
        Ok(())
    }

    fn post_fit(&mut self, _: &RunView) -> CallbackResult {
        self.print();
        Ok(())
    }

    fn on_interrupt(&mut self, _: &RunView, _: &Interruption) -> CallbackResult {
        self.print();
        Ok(())
    }
}

impl fmt::Display for BenchmarkReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            warmup_steps, measured_steps, step_seconds: step, tokens_per_second: rate, ..
        } = self;
        let [median, min, max] = [step.median, step.min, step.max].map(format::measured);
        writeln!(f, "benchmark   {measured_steps} steps after {warmup_steps} of warm-up")?;
        writeln!(f, "step        median {median}  min {min}  max {max}")?;
        let [median, min, max] = [rate.median, rate.min, rate.max].map(format::rate);
        writeln!(f, "throughput  median {median} tok/s  min {min}  max {max}")?;
        write!(f, "data wait   {} of step time", format::percent(self.data_wait_share))?;
        if self.communication_share > 0.0 {
            let share = format::percent(self.communication_share);
            write!(f, "\ncollectives {share} of step time")?;
        }
        self.mfu_percent.map_or(Ok(()), |mfu| write!(f, "\nmfu         {mfu:.1}%"))?;
        let memory = self.peak_memory_bytes.map(format::bytes);
        memory.map_or(Ok(()), |peak| write!(f, "\npeak memory {peak}"))?;
        let memory = self.peak_gpu_bytes.map(format::bytes);
        memory.map_or(Ok(()), |peak| write!(f, "\ngpu memory  {peak}"))
    }
}
