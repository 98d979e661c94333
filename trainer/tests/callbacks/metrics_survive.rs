//! A sink that fails costs rows and never the run.

use std::io;
use std::path::Path;

use dream_trainer::callbacks::{CallbackSet, MetricLogger};
use dream_trainer::metrics::{MetricSink, SharedSink, SinkError, StepInfo, ValidationInfo};

use crate::support::{Captured, run_in, step};

/// A disk that is full during some steps.
struct FullDisk {
    full: std::ops::Range<u64>,
}

impl MetricSink for FullDisk {
    fn name(&self) -> &'static str {
        "full_disk"
    }

    fn open(&mut self, directory: &Path, _: u64) -> Result<(), SinkError> {
        let source = io::Error::from(io::ErrorKind::PermissionDenied);
        if directory.ends_with("closed") {
            return Err(SinkError::Open { path: "metrics".into(), source });
        }
        Ok(())
    }

    fn annotate(&mut self, _: &str, _: f64) {}

    fn step(&mut self, info: &StepInfo) -> Result<(), SinkError> {
        let source = io::Error::from(io::ErrorKind::StorageFull);
        if self.full.contains(&info.step) {
            return Err(SinkError::Write { path: "metrics".into(), source });
        }
        Ok(())
    }

    fn validation(&mut self, _: &ValidationInfo) -> Result<(), SinkError> {
        Ok(())
    }
}

#[test]
fn full_disk_is_warned_of_once_and_its_end_counted() {
    let run = run_in(Path::new("out"), 10, 0);
    let mut set = CallbackSet::new(0);
    let sink = SharedSink::new(FullDisk { full: 3..6 });
    set.push(Box::new(MetricLogger::new(sink))).unwrap();
    let log = Captured::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(move || writer.clone())
        .without_time()
        .with_ansi(false)
        .with_target(false)
        .finish();
    tracing::subscriber::with_default(subscriber, || {
        set.pre_fit(&run).unwrap();
        for number in 1..=10 {
            set.post_train_step(&run, &step(number)).unwrap();
        }
        set.post_fit(&run).unwrap();
    });
    insta::assert_snapshot!(log.text(), @r#"
     WARN metrics are lost, training goes on sink="full_disk" error="cannot write metrics to `metrics`: no storage space"
     WARN metrics are written again sink="full_disk" lost_rows=3
     WARN the metrics of this run are not complete sink="full_disk" lost_rows=3
    "#);
}

#[test]
fn sink_that_cannot_be_opened_stops_the_run_before_the_first_step() {
    let mut set = CallbackSet::new(0);
    set.push(Box::new(MetricLogger::new(SharedSink::new(FullDisk { full: 0..0 })))).unwrap();
    let error = set.pre_fit(&run_in(Path::new("closed"), 10, 0)).unwrap_err();
    assert_eq!(error.to_string(), "callback `full_disk` failed during pre_fit");
    assert_eq!(error.source.to_string(), "cannot open metrics file `metrics`");
}
