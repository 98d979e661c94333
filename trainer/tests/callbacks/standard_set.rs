//! The callbacks a configuration asks for.

use std::fs;

use dream_trainer::callbacks::{BenchmarkConfig, CallbacksConfig, Terminal, Verbosity, build};
use dream_trainer::metrics::MetricsConfig;

use crate::support::{Captured, report, run_in, step, validation};

#[test]
fn configuration_and_verbosity_choose_the_callbacks() {
    let every = MetricsConfig { tensorboard: true, ..MetricsConfig::default() };
    let none = MetricsConfig { jsonl: false, ..MetricsConfig::default() };
    let benchmark = BenchmarkConfig { enable: true, ..BenchmarkConfig::default() };
    let shown = CallbacksConfig { benchmark, ..CallbacksConfig::default() };
    let hidden =
        CallbacksConfig { progress_bar: false, summary: false, ..CallbacksConfig::default() };
    let rows = [
        (
            &every,
            &shown,
            Verbosity::Normal,
            "precision learning_rate jsonl tensorboard trainer_summary progress_bar console_line benchmark",
        ),
        (&every, &shown, Verbosity::Quiet, "precision learning_rate jsonl tensorboard benchmark"),
        (&none, &hidden, Verbosity::Normal, "precision learning_rate console_line"),
        (&none, &hidden, Verbosity::Quiet, "precision learning_rate"),
    ];
    for (metrics, callbacks, verbosity, expected) in rows {
        let terminal = Terminal::new(Box::new(Captured::default()));
        let set = build(metrics, callbacks, 0, &terminal, verbosity);
        assert_eq!(set.names().collect::<Vec<_>>().join(" "), expected);
    }
}

#[test]
fn whole_run_leaves_its_metrics_and_shows_itself() {
    let folder = tempfile::tempdir().unwrap();
    let run = run_in(folder.path(), 3, 0);
    let shown = Captured::default();
    let terminal = Terminal::new(Box::new(shown.clone()));
    let metrics = MetricsConfig { peak_flops: Some(1e14), ..MetricsConfig::default() };
    let mut set = build(&metrics, &CallbacksConfig::default(), 0, &terminal, Verbosity::Verbose);
    set.post_setup(&run, &report(Vec::new())).unwrap();
    set.pre_fit(&run).unwrap();
    set.post_validation(&run, &validation(0, true)).unwrap();
    for number in 1..=3 {
        // The first two steps use two optimizers, the last only one.
        set.post_optimizer_step(&run, "generator", 0.5).unwrap();
        if number < 3 {
            set.post_optimizer_step(&run, "critic", 0.25).unwrap();
        }
        set.post_train_step(&run, &step(number)).unwrap();
    }
    set.post_validation(&run, &validation(3, false)).unwrap();
    set.post_fit(&run).unwrap();

    let text = fs::read_to_string(folder.path().join("metrics.jsonl")).unwrap();
    let endings: Vec<_> =
        text.lines().map(|line| line.rsplit_once("false").map(|row| row.1)).collect();
    let with_rates = Some(",\"lr/critic\":0.25,\"lr/generator\":0.5,\"mfu_percent\":16.384}");
    assert_eq!(endings, [with_rates, with_rates, Some(",\"mfu_percent\":16.384}"), None]);
    assert!(!folder.path().join("tensorboard").exists());
    let steps = shown.text().lines().filter(|line| line.contains("grad_norm")).count();
    assert_eq!(steps, 3, "a verbose run shows every step");
}

#[test]
fn other_ranks_write_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let run = run_in(folder.path(), 3, 0);
    let shown = Captured::default();
    let terminal = Terminal::new(Box::new(shown.clone()));
    let metrics = MetricsConfig { tensorboard: true, ..MetricsConfig::default() };
    let mut set = build(&metrics, &CallbacksConfig::default(), 1, &terminal, Verbosity::Verbose);
    set.post_setup(&run, &report(Vec::new())).unwrap();
    set.pre_fit(&run).unwrap();
    set.post_train_step(&run, &step(1)).unwrap();
    set.post_fit(&run).unwrap();
    assert_eq!(shown.text(), "");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
