//! Keeps the numbers of a run in a sink.

use super::{Callback, CallbackResult, Interruption, Requests, RunView, SetupReport};
use crate::metrics::{
    JsonlSink, SharedSink, StepInfo, TensorBoardSink, Utilization, ValidationInfo,
};

/// Writes every step and every validation to one sink; sanity validations are no results and left
/// out.
///
/// A sink that cannot be opened fails `pre_fit`, before anything is trained. Rows that cannot be
/// written later cost a warning; see [`SharedSink`].
pub struct MetricLogger {
    sink: SharedSink,
    name: &'static str,
    peak_flops: Option<f64>,
    utilization: Option<Utilization>,
}

impl MetricLogger {
    /// Returns a logger into any sink, named after it.
    pub fn new(sink: SharedSink) -> Self {
        let name = sink.name();
        Self { sink, name, peak_flops: None, utilization: None }
    }

    /// Returns a logger into `metrics.jsonl`.
    pub fn jsonl() -> Self {
        Self::new(SharedSink::new(JsonlSink::new()))
    }

    /// Returns a logger into `TensorBoard` event files.
    pub fn tensorboard() -> Self {
        Self::new(SharedSink::new(TensorBoardSink::new()))
    }

    /// Adds `mfu_percent` to each step, if the model tells its floating-point operations.
    #[must_use]
    pub fn with_peak_flops(mut self, peak_flops: Option<f64>) -> Self {
        self.peak_flops = peak_flops;
        self
    }

    /// Returns the sink, for callbacks that add to its rows.
    pub fn sink(&self) -> SharedSink {
        self.sink.clone()
    }
}

impl Callback for MetricLogger {
    fn name(&self) -> &'static str {
        self.name
    }

    fn post_setup(&mut self, run: &RunView, report: &SetupReport) -> CallbackResult {
        self.utilization = run.utilization(report, self.peak_flops);
        Ok(())
    }

    fn pre_fit(&mut self, run: &RunView) -> CallbackResult {
        Ok(self.sink.open(&run.directory, run.start_step)?)
    }

    fn post_train_step(
        &mut self,
        _: &RunView,
        info: &StepInfo,
        _: &mut Requests,
    ) -> CallbackResult {
        if let Some(utilization) = self.utilization {
            self.sink.annotate("mfu_percent", utilization.percent(info.step_seconds));
        }
        self.sink.step(info);
        Ok(())
    }

    fn post_validation(&mut self, _: &RunView, info: &ValidationInfo) -> CallbackResult {
        if !info.sanity {
            self.sink.validation(info);
        }
        Ok(())
    }

    fn post_fit(&mut self, _: &RunView) -> CallbackResult {
        self.sink.finish();
        Ok(())
    }

    fn on_interrupt(&mut self, _: &RunView, _: &Interruption) -> CallbackResult {
        self.sink.finish();
        Ok(())
    }
}
