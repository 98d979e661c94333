//! Who hears which event, when, and what becomes of errors and state.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use dream_trainer::callbacks::{
    Callback, CallbackResult, CallbackSet, Interruption, MemoryUse, Requests, RunView, SetupReport,
};
use dream_trainer::metrics::{StepInfo, ValidationInfo};
use serde_json::{Value, json};

use crate::support::{Captured, memory, report, run_in, step, validation};

/// Writes `name.event` lines to a log that several of them share.
struct Recorder {
    name: String,
    log: Captured,
    everywhere: bool,
    fails_in: &'static str,
    state: Value,
}

impl Recorder {
    fn new(name: &str, log: &Captured) -> Self {
        let (name, log) = (name.to_owned(), log.clone());
        Self { name, log, everywhere: false, fails_in: "", state: Value::Null }
    }

    fn heard(&mut self, event: &str) -> CallbackResult {
        writeln!(self.log, "{}.{event}", self.name)?;
        if event.split(' ').next() == Some(self.fails_in) {
            Err("it is full".into())
        } else {
            Ok(())
        }
    }
}

impl Callback for Recorder {
    fn name(&self) -> &str {
        &self.name
    }
    fn rank_zero_only(&self) -> bool {
        !self.everywhere
    }
    fn pre_launch(&mut self, _: &RunView) -> CallbackResult {
        self.heard("pre_launch")
    }
    fn pre_configure(&mut self, _: &RunView) -> CallbackResult {
        self.heard("pre_configure")
    }
    fn post_configure(&mut self, _: &RunView) -> CallbackResult {
        self.heard("post_configure")
    }
    fn pre_setup(&mut self, _: &RunView) -> CallbackResult {
        self.heard("pre_setup")
    }
    fn post_setup(&mut self, _: &RunView, report: &SetupReport) -> CallbackResult {
        self.heard(&format!("post_setup {}", report.model))
    }
    fn pre_fit(&mut self, _: &RunView) -> CallbackResult {
        self.heard("pre_fit")
    }
    fn pre_epoch(&mut self, _: &RunView, epoch: u64) -> CallbackResult {
        self.heard(&format!("pre_epoch {epoch}"))
    }
    fn post_epoch(&mut self, _: &RunView, epoch: u64) -> CallbackResult {
        self.heard(&format!("post_epoch {epoch}"))
    }
    fn pre_train_step(&mut self, _: &RunView, step: u64) -> CallbackResult {
        self.heard(&format!("pre_train_step {step}"))
    }
    fn pre_optimizer_step(&mut self, _: &RunView, optimizer: &str) -> CallbackResult {
        self.heard(&format!("pre_optimizer_step {optimizer}"))
    }
    fn post_optimizer_step(&mut self, _: &RunView, optimizer: &str, lr: f64) -> CallbackResult {
        self.heard(&format!("post_optimizer_step {optimizer} {lr}"))
    }
    fn post_train_step(
        &mut self,
        _: &RunView,
        info: &StepInfo,
        _: &mut Requests,
    ) -> CallbackResult {
        self.heard(&format!("post_train_step {}", info.step))
    }
    fn post_first_step(&mut self, _: &RunView, memory: &MemoryUse) -> CallbackResult {
        self.heard(&format!("post_first_step {}", memory.rank_parameters))
    }
    fn pre_validation(&mut self, _: &RunView, sanity: bool) -> CallbackResult {
        self.heard(&format!("pre_validation {sanity}"))
    }
    fn post_validation_step(&mut self, _: &RunView, index: u64, total: u64) -> CallbackResult {
        self.heard(&format!("post_validation_step {index}/{total}"))
    }
    fn post_validation(&mut self, _: &RunView, info: &ValidationInfo) -> CallbackResult {
        self.heard(&format!("post_validation {}", info.step))
    }
    fn post_checkpoint(&mut self, _: &RunView, step: u64, path: &Path) -> CallbackResult {
        self.heard(&format!("post_checkpoint {step} {}", path.display()))
    }
    fn post_fit(&mut self, _: &RunView) -> CallbackResult {
        self.heard("post_fit")
    }
    fn on_interrupt(&mut self, _: &RunView, why: &Interruption) -> CallbackResult {
        self.heard(&format!("on_interrupt {why:?}"))
    }
    fn state(&self) -> Option<Value> {
        (!self.state.is_null()).then(|| self.state.clone())
    }
    fn load_state(&mut self, state: Value) -> CallbackResult {
        self.heard(&format!("load_state {state}"))
    }
}

fn set(rank: usize, recorders: Vec<Recorder>) -> CallbackSet {
    let mut set = CallbackSet::new(rank);
    for recorder in recorders {
        set.push(Box::new(recorder)).unwrap();
    }
    set
}

/// A run of one step with every event in it.
fn play(set: &mut CallbackSet) {
    let run = run_in(Path::new("out"), 1, 0);
    set.pre_launch(&run).unwrap();
    set.pre_configure(&run).unwrap();
    set.post_configure(&run).unwrap();
    set.pre_setup(&run).unwrap();
    set.post_setup(&run, &report(Vec::new())).unwrap();
    set.pre_fit(&run).unwrap();
    set.pre_epoch(&run, 0).unwrap();
    set.pre_train_step(&run, 1).unwrap();
    set.pre_optimizer_step(&run, "adamw").unwrap();
    set.post_optimizer_step(&run, "adamw", 0.5).unwrap();
    set.post_train_step(&run, &step(1)).unwrap();
    set.post_first_step(&run, &memory()).unwrap();
    set.pre_validation(&run, false).unwrap();
    set.post_validation_step(&run, 0, 1).unwrap();
    set.post_validation(&run, &validation(1, false)).unwrap();
    set.post_checkpoint(&run, 1, Path::new("out/step-1")).unwrap();
    set.post_epoch(&run, 0).unwrap();
    set.post_fit(&run).unwrap();
    set.on_interrupt(&run, &Interruption::Signal).unwrap();
}

#[test]
fn every_event_reaches_every_callback_once_in_order() {
    let log = Captured::default();
    play(&mut set(0, vec![Recorder::new("first", &log), Recorder::new("second", &log)]));
    let heard = log.text();
    let of = |name: &str| -> Vec<&str> {
        heard.lines().filter_map(|line| line.strip_prefix(name)).collect()
    };
    insta::assert_snapshot!(of("first.").join("\n"), @r"
    pre_launch
    pre_configure
    post_configure
    pre_setup
    post_setup llama3
    pre_fit
    pre_epoch 0
    pre_train_step 1
    pre_optimizer_step adamw
    post_optimizer_step adamw 0.5
    post_train_step 1
    post_first_step 1250
    pre_validation false
    post_validation_step 0/1
    post_validation 1
    post_checkpoint 1 out/step-1
    post_epoch 0
    post_fit
    on_interrupt Signal
    ");
    assert_eq!(of("first."), of("second."));
    for pair in heard.lines().collect::<Vec<_>>().chunks(2) {
        assert!(pair[0].starts_with("first.") && pair[1].starts_with("second."), "{pair:?}");
    }
}

#[test]
fn other_ranks_tell_only_those_that_run_everywhere() {
    let log = Captured::default();
    let everywhere = Recorder { everywhere: true, ..Recorder::new("everywhere", &log) };
    play(&mut set(3, vec![Recorder::new("zero", &log), everywhere]));
    assert!(log.text().lines().all(|line| line.starts_with("everywhere.")));
    assert_eq!(log.text().lines().count(), 19);
}

#[test]
fn errors_name_callback_and_event_and_end_the_event() {
    let run = run_in(Path::new("out"), 1, 0);
    // (event that fails, whether later callbacks hear it all the same)
    for (event, others_hear) in
        [("pre_fit", false), ("post_train_step", false), ("post_fit", true), ("on_interrupt", true)]
    {
        let log = Captured::default();
        let failing = Recorder { fails_in: event, ..Recorder::new("disk", &log) };
        let mut set = set(0, vec![failing, Recorder::new("other", &log)]);
        let error = match event {
            "pre_fit" => set.pre_fit(&run).unwrap_err(),
            "post_train_step" => set.post_train_step(&run, &step(1)).unwrap_err(),
            "post_fit" => set.post_fit(&run).unwrap_err(),
            _ => set.on_interrupt(&run, &Interruption::Signal).unwrap_err(),
        };
        assert_eq!(error.to_string(), format!("callback `disk` failed during {event}"));
        assert_eq!(error.source.to_string(), "it is full");
        assert_eq!(log.text().contains("other."), others_hear, "{event}");
    }
}

#[test]
fn names_are_unique() {
    let log = Captured::default();
    let mut set = set(0, vec![Recorder::new("ema", &log)]);
    let error = set.push(Box::new(Recorder::new("ema", &log))).unwrap_err();
    assert_eq!(error.name, "ema");
    assert_eq!(set.names().collect::<Vec<_>>(), ["ema"]);
}

#[test]
fn state_is_kept_by_name_and_given_back() {
    let log = Captured::default();
    let recorder = |name: &str, state| Recorder { state, ..Recorder::new(name, &log) };
    let mut first =
        set(0, vec![recorder("ema", json!({"decay": 0.9})), recorder("none", json!(null))]);
    let saved = first.state();
    assert_eq!(saved, BTreeMap::from([("ema".to_owned(), json!({"decay": 0.9}))]));
    first.load_state(saved.clone()).unwrap();
    assert_eq!(log.text(), "ema.load_state {\"decay\":0.9}\n");

    assert_eq!(
        set(1, vec![recorder("ema", json!(1))]).state(),
        BTreeMap::new(),
        "rank zero's alone"
    );
    let failing = Recorder { fails_in: "load_state", ..Recorder::new("ema", &log) };
    let error = set(0, vec![failing]).load_state(saved).unwrap_err();
    assert_eq!(error.to_string(), "callback `ema` failed during load_state");
}
