//! The standard callbacks of a configuration.

use super::{
    Benchmark, Callback, CallbackSet, CallbacksConfig, ConsoleLine, LearningRateLogger,
    MetricLogger, PrecisionRecord, ProgressBar, Terminal, TrainerSummary,
};
use crate::metrics::MetricsConfig;

/// How much a run shows on the console; what it keeps in files does not change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Shows nothing but the result of a benchmark.
    Quiet,
    /// Shows what the configuration asks for.
    #[default]
    Normal,
    /// Shows a line per step and every module of the model.
    Verbose,
}

/// Builds the callbacks that `[metrics]` and `[callbacks]` ask for.
///
/// Loggers come first, so that what is on disk never lags behind what was seen; within them the
/// learning rates come before the rows they belong to. Progress bars end before the last lines are
/// printed.
pub fn build(
    metrics: &MetricsConfig,
    callbacks: &CallbacksConfig,
    rank: usize,
    terminal: &Terminal,
    verbosity: Verbosity,
) -> CallbackSet {
    let mut set = CallbackSet::new(rank);
    for callback in
        loggers(metrics).into_iter().chain(console(metrics, callbacks, terminal, verbosity))
    {
        set.push(callback).expect("standard callbacks have names of their own");
    }
    set
}

fn loggers(metrics: &MetricsConfig) -> Vec<Box<dyn Callback>> {
    let jsonl = metrics.jsonl.then(MetricLogger::jsonl);
    let tensorboard = metrics.tensorboard.then(MetricLogger::tensorboard);
    let loggers: Vec<_> = [jsonl, tensorboard].into_iter().flatten().collect();
    let sinks = loggers.iter().map(MetricLogger::sink).collect();
    let mut boxed: Vec<Box<dyn Callback>> =
        vec![Box::new(PrecisionRecord), Box::new(LearningRateLogger::new(sinks))];
    for logger in loggers {
        boxed.push(Box::new(logger.with_peak_flops(metrics.peak_flops)));
    }
    boxed
}

fn console(
    metrics: &MetricsConfig,
    callbacks: &CallbacksConfig,
    terminal: &Terminal,
    verbosity: Verbosity,
) -> Vec<Box<dyn Callback>> {
    let mut boxed: Vec<Box<dyn Callback>> = Vec::new();
    let (depth, every_n_steps) = match verbosity {
        Verbosity::Verbose => (usize::MAX, 1),
        Verbosity::Quiet | Verbosity::Normal => (2, metrics.console_every_n_steps),
    };
    if verbosity > Verbosity::Quiet {
        if callbacks.summary {
            boxed.push(Box::new(TrainerSummary::new(terminal.clone(), depth)));
        }
        if callbacks.progress_bar {
            boxed.push(Box::new(ProgressBar::new(terminal.clone())));
        }
        let line = ConsoleLine::new(terminal.clone(), every_n_steps);
        boxed.push(Box::new(line.with_peak_flops(metrics.peak_flops)));
    }
    if callbacks.benchmark.enable {
        let benchmark = Benchmark::new(terminal.clone(), callbacks.benchmark.warmup_steps);
        boxed.push(Box::new(benchmark.with_peak_flops(metrics.peak_flops)));
    }
    boxed
}
