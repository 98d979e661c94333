//! Lines on the console.

use std::path::Path;

use super::{
    Callback, CallbackResult, Interruption, MemoryUse, Requests, RunView, SetupReport, Terminal,
};
use crate::metrics::{
    Progress, StepInfo, TimeLeft, Utilization, ValidationInfo, format, note_line, step_line,
    validation_line,
};

/// Prints a line for the first step and every few, for validations and checkpoints, and one at the
/// end.
pub struct ConsoleLine {
    terminal: Terminal,
    every_n_steps: u64,
    peak_flops: Option<f64>,
    utilization: Option<Utilization>,
    time_left: TimeLeft,
    last_step: Option<u64>,
    train_tokens: u64,
    train_seconds: f64,
    communication_seconds: f64,
    validation_seconds: f64,
    skipped: u64,
}

impl ConsoleLine {
    /// Returns a callback that prints every `every_n_steps` steps; 0 leaves step lines out.
    pub fn new(terminal: Terminal, every_n_steps: u64) -> Self {
        Self {
            terminal,
            every_n_steps,
            peak_flops: None,
            utilization: None,
            time_left: TimeLeft::default(),
            last_step: None,
            train_tokens: 0,
            train_seconds: 0.0,
            communication_seconds: 0.0,
            validation_seconds: 0.0,
            skipped: 0,
        }
    }

    /// Shows model FLOPs utilization, if the model tells its floating-point operations.
    #[must_use]
    pub fn with_peak_flops(mut self, peak_flops: Option<f64>) -> Self {
        self.peak_flops = peak_flops;
        self
    }

    fn is_due(&self, step: u64) -> bool {
        self.every_n_steps > 0
            && (self.last_step.is_none() || step.is_multiple_of(self.every_n_steps))
    }

    fn progress(&self, run: &RunView) -> Progress {
        Progress {
            num_steps: run.num_steps,
            colored: self.terminal.is_colored(),
            ..Progress::default()
        }
    }

    fn totals(&self, run: &RunView) -> String {
        let tokens = format::count(self.train_tokens);
        let mut parts =
            vec![format!("{tokens} tokens in {}", format::duration(self.train_seconds))];
        if run.mesh.world_size() > 1 && self.train_seconds > 0.0 {
            let share = format::percent(self.communication_seconds / self.train_seconds);
            parts.push(format!("{share} of it waiting for communication"));
        }
        if self.validation_seconds > 0.0 {
            parts.push(format!("validation {}", format::duration(self.validation_seconds)));
        }
        if self.skipped > 0 {
            parts.push(format!("{} updates skipped", format::count(self.skipped)));
        }
        parts.join(", ")
    }
}

impl Callback for ConsoleLine {
    fn name(&self) -> &'static str {
        "console_line"
    }

    fn post_setup(&mut self, run: &RunView, report: &SetupReport) -> CallbackResult {
        self.utilization = run.utilization(report, self.peak_flops);
        Ok(())
    }

    fn post_train_step(
        &mut self,
        run: &RunView,
        info: &StepInfo,
        _: &mut Requests,
    ) -> CallbackResult {
        self.time_left.observe(info.step_seconds);
        self.train_tokens += info.tokens;
        self.train_seconds += info.step_seconds;
        self.communication_seconds += info.communication_seconds;
        self.skipped += u64::from(info.skipped);
        if self.is_due(info.step) || (info.skipped && self.every_n_steps > 0) {
            let progress = Progress {
                seconds_left: self.time_left.seconds(run.num_steps.saturating_sub(info.step)),
                mfu_percent: self.utilization.map(|known| known.percent(info.step_seconds)),
                ..self.progress(run)
            };
            self.terminal.line(&step_line(info, &progress));
        }
        self.last_step = Some(info.step);
        Ok(())
    }

    fn post_first_step(&mut self, run: &RunView, memory: &MemoryUse) -> CallbackResult {
        let note = memory_note(memory, run.mesh.world_size() > 1);
        self.terminal.line(&note_line(run.start_step + 1, &note, &self.progress(run)));
        Ok(())
    }

    fn post_validation(&mut self, run: &RunView, info: &ValidationInfo) -> CallbackResult {
        self.validation_seconds += info.seconds;
        self.terminal.line(&validation_line(info, &self.progress(run)));
        Ok(())
    }

    fn post_checkpoint(&mut self, run: &RunView, step: u64, path: &Path) -> CallbackResult {
        let shown = path.strip_prefix(&run.directory).unwrap_or(path).display();
        let note = format!("saved {shown}");
        self.terminal.line(&note_line(step, &note, &self.progress(run)));
        Ok(())
    }

    fn post_fit(&mut self, run: &RunView) -> CallbackResult {
        let steps = format::count(run.num_steps);
        self.terminal.line(&format!("finished {steps} steps  {}", self.totals(run)));
        Ok(())
    }

    fn on_interrupt(&mut self, run: &RunView, why: &Interruption) -> CallbackResult {
        let step = self.last_step.unwrap_or(run.start_step);
        let why = match why {
            Interruption::Signal => "by a signal".to_owned(),
            Interruption::Requested { callback } => format!("by callback `{callback}`"),
            Interruption::Failed(error) => format!("by an error: {error}"),
        };
        self.terminal.line(&format!("stopped after step {step}/{} {why}", run.num_steps));
        Ok(())
    }
}

/// Says what a rank holds, as in `7,482,880 parameters per rank, activations up to 3.15 MB (3.00
/// MiB), estimated 3.15 MB (3.00 MiB)`.
fn memory_note(memory: &MemoryUse, several: bool) -> String {
    let per_rank = if several { " per rank" } else { "" };
    let parameters = format::count(memory.rank_parameters);
    let measured = memory.activation_bytes.map(|bytes| format!("up to {}", format::bytes(bytes)));
    let estimate =
        memory.activation_estimate.map(|bytes| format!("estimated {}", format::bytes(bytes)));
    let activations: Vec<String> = measured.into_iter().chain(estimate).collect();
    let activations = if activations.is_empty() {
        String::new()
    } else {
        format!(", activations {}", activations.join(", "))
    };
    format!("{parameters} parameters{per_rank}{activations}")
}
