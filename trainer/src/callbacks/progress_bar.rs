//! Progress bars.

use indicatif::ProgressStyle;

use super::{Callback, CallbackResult, Interruption, Requests, RunView, Terminal};
use crate::metrics::{StepInfo, TimeLeft, ValidationInfo, format};

/// Draws step, loss, gradient norm, tokens/s and time left, and a second bar while a validation
/// runs.
///
/// Nothing is drawn where the terminal shows no bars.
pub struct ProgressBar {
    terminal: Terminal,
    time_left: TimeLeft,
    train: Option<indicatif::ProgressBar>,
    validation: Option<indicatif::ProgressBar>,
}

impl ProgressBar {
    /// Returns a bar that shares `terminal` with whatever prints lines.
    pub fn new(terminal: Terminal) -> Self {
        Self { terminal, time_left: TimeLeft::default(), train: None, validation: None }
    }

    fn add(&self, prefix: &'static str, length: u64) -> indicatif::ProgressBar {
        let style = ProgressStyle::with_template("{prefix} {pos}/{len} [{bar:24}] {wide_msg}")
            .expect("the template is valid")
            .progress_chars("=> ");
        let bar = self.terminal.add_bar(indicatif::ProgressBar::new(length).with_prefix(prefix));
        bar.set_style(style);
        bar
    }

    fn clear(&mut self) {
        for bar in [self.validation.take(), self.train.take()].into_iter().flatten() {
            bar.finish_and_clear();
        }
    }
}

impl Callback for ProgressBar {
    fn name(&self) -> &'static str {
        "progress_bar"
    }

    fn pre_fit(&mut self, run: &RunView) -> CallbackResult {
        if self.terminal.shows_bars() {
            let bar = self.add("train", run.num_steps);
            bar.set_position(run.start_step);
            self.train = Some(bar);
        }
        Ok(())
    }

    fn post_train_step(
        &mut self,
        run: &RunView,
        info: &StepInfo,
        _: &mut Requests,
    ) -> CallbackResult {
        self.time_left.observe(info.step_seconds);
        if let Some(bar) = &self.train {
            bar.set_position(info.step);
            let left = self.time_left.seconds(run.num_steps.saturating_sub(info.step));
            bar.set_message(format!(
                "loss {}  grad_norm {}  {} tok/s  eta {}",
                format::loss(info.loss),
                format::norm(info.grad_norm),
                format::rate(info.tokens_per_second),
                format::duration(left.unwrap_or(f64::NAN)),
            ));
        }
        Ok(())
    }

    fn post_validation_step(&mut self, _: &RunView, index: u64, total: u64) -> CallbackResult {
        if self.terminal.shows_bars() && self.validation.is_none() {
            self.validation = Some(self.add("validation", total));
        }
        if let Some(bar) = &self.validation {
            bar.set_position(index + 1);
        }
        Ok(())
    }

    fn post_validation(&mut self, _: &RunView, _: &ValidationInfo) -> CallbackResult {
        if let Some(bar) = self.validation.take() {
            bar.finish_and_clear();
        }
        Ok(())
    }

    fn post_fit(&mut self, _: &RunView) -> CallbackResult {
        self.clear();
        Ok(())
    }

    fn on_interrupt(&mut self, _: &RunView, _: &Interruption) -> CallbackResult {
        self.clear();
        Ok(())
    }
}
