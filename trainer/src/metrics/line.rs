//! One line per step and validation for people to read.

use super::{StepInfo, ValidationInfo, format};

/// What a console line shows beside the numbers of the step.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Progress {
    /// Optimizer steps the run will have done at its end.
    pub num_steps: u64,
    /// Seconds until then, if they can be told.
    pub seconds_left: Option<f64>,
    /// Model FLOPs utilization in percent, if it can be told.
    pub mfu_percent: Option<f64>,
    /// Dims labels with ANSI colors.
    pub colored: bool,
}

/// Writes a step as in `step 120/2000  loss 2.3456  grad_norm 0.87  lr 3.00e-4  12,345 tok/s  eta
/// 3m12s`.
pub fn step_line(info: &StepInfo, progress: &Progress) -> String {
    let mut line = Line::new(info.step, progress);
    line.field("loss", &format::loss(info.loss));
    line.field("grad_norm", &format::norm(info.grad_norm));
    line.field("lr", &format::learning_rate(info.lr));
    for (name, &value) in &info.extra {
        line.field(name, &format::loss(value));
    }
    line.text(&format!("{} tok/s", format::rate(info.tokens_per_second)));
    if let Some(mfu) = progress.mfu_percent {
        line.field("mfu", &format!("{mfu:.1}%"));
    }
    if let Some(seconds) = progress.seconds_left {
        line.field("eta", &format::duration(seconds));
    }
    match info.loss_scale {
        Some(scale) if info.skipped => line.text(&format!("update skipped at loss scale {scale}")),
        None if info.skipped => line.text("update skipped"),
        _ => {}
    }
    line.text
}

/// Writes a validation as in `step 120/2000  val_loss 2.3456  8,192 tokens in 1.2s`.
pub fn validation_line(info: &ValidationInfo, progress: &Progress) -> String {
    let size =
        format!("{} tokens in {}", format::count(info.tokens), format::duration(info.seconds));
    if info.sanity {
        return format!("sanity validation passed: {size}");
    }
    let mut line = Line::new(info.step, progress);
    line.field("val_loss", &format::loss(info.loss));
    line.text(&size);
    line.text
}

/// Writes something else about a step, as in `step 120/2000  saved checkpoints/step-120`.
pub fn note_line(step: u64, note: &str, progress: &Progress) -> String {
    let mut line = Line::new(step, progress);
    line.text(note);
    line.text
}

struct Line {
    text: String,
    colored: bool,
}

impl Line {
    /// Starts with `step 120/2000`, as wide as the last step of the run, so that columns stay in
    /// place.
    fn new(step: u64, progress: &Progress) -> Self {
        let total = progress.num_steps.to_string();
        let width = 2 * total.len() + 1;
        let label = label("step", progress.colored);
        let text = format!("{label} {:<width$}", format!("{step}/{total}"));
        Self { text, colored: progress.colored }
    }

    fn field(&mut self, name: &str, value: &str) {
        let label = label(name, self.colored);
        self.text(&format!("{label} {value}"));
    }

    fn text(&mut self, text: &str) {
        self.text.push_str("  ");
        self.text.push_str(text);
    }
}

fn label(name: &str, colored: bool) -> String {
    if colored { format!("\x1b[2m{name}\x1b[0m") } else { name.to_owned() }
}
