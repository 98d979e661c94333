//! Medians after a warm-up.

use std::path::Path;

use dream_trainer::callbacks::{Benchmark, Callback, Requests, Terminal};
use dream_trainer::metrics::StepInfo;

use crate::support::{Captured, report, run_in, step};

/// Tokens per second of a real series whose first step warms up: its mean, 29,088, is the speed of
/// no step.
const SERIES: [f64; 6] = [1045.0, 34601.0, 34686.0, 34715.0, 34833.0, 34650.0];

fn benchmark(warmup_steps: u64) -> (Benchmark, Captured) {
    let shown = Captured::default();
    let terminal = Terminal::new(Box::new(shown.clone()));
    let mut benchmark = Benchmark::new(terminal, warmup_steps).with_peak_flops(Some(1e14));
    let run = run_in(Path::new("out"), 6, 0);
    benchmark.post_setup(&run, &report(Vec::new())).unwrap();
    for (index, tokens_per_second) in SERIES.into_iter().enumerate() {
        let mut info = step(index as u64 + 1);
        info.tokens_per_second = tokens_per_second;
        info.step_seconds = 4096.0 / tokens_per_second;
        info.data_seconds = 0.05 * info.step_seconds;
        info.communication_seconds = 0.125 * info.step_seconds;
        benchmark.post_train_step(&run, &info, &mut Requests::default()).unwrap();
    }
    benchmark.post_fit(&run).unwrap();
    (benchmark, shown)
}

#[test]
fn median_after_warmup_is_the_speed() {
    let report = benchmark(1).0.report().unwrap();
    let speed = report.tokens_per_second;
    assert_eq!((speed.median, speed.min, speed.max), (34686.0, 34601.0, 34833.0));
    assert_eq!(report.measured_steps, 5);
    assert!((report.step_seconds.median - 4096.0 / 34686.0).abs() < 1e-12);
    assert!((report.data_wait_share - 0.05).abs() < 1e-12);
    assert!((report.communication_share - 0.125).abs() < 1e-12);
    assert!((report.mfu_percent.unwrap() - 34.686).abs() < 1e-9);
}

#[test]
fn result_is_printed_at_the_end() {
    insta::assert_snapshot!(benchmark(1).1.text(), @"
    benchmark   5 steps after 1 of warm-up
    step        median 118.1 ms  min 117.6 ms  max 118.4 ms
    throughput  median 34,686 tok/s  min 34,601  max 34,833
    data wait   5.0% of step time
    collectives 12.5% of step time
    mfu         34.7%
    ");
}

#[test]
fn the_peak_of_the_gpu_counts_the_warmup() {
    let terminal = Terminal::new(Box::new(Captured::default()));
    let mut benchmark = Benchmark::new(terminal, 1);
    let run = run_in(Path::new("out"), 3, 0);
    for (number, gpu_bytes) in [(1, Some(5 << 30)), (2, Some(3 << 30)), (3, Some(4 << 30))] {
        let info = StepInfo { gpu_bytes, ..step(number) };
        benchmark.post_train_step(&run, &info, &mut Requests::default()).unwrap();
    }
    let report = benchmark.report().unwrap();
    assert_eq!(report.peak_gpu_bytes, Some(5 << 30));
    assert!(report.to_string().contains("\ngpu memory  5.37 GB"), "{report}");
}

#[test]
fn run_that_ends_within_the_warmup_says_so() {
    let (benchmark, shown) = benchmark(6);
    assert_eq!(benchmark.report(), None);
    assert_eq!(shown.text(), "benchmark  nothing measured: 6 steps, 6 of warm-up\n");
}
