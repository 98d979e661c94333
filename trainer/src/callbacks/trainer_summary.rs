//! What is about to be trained, in one box.

use super::{BatchShape, Callback, CallbackResult, ModelSummary, RunView, SetupReport, Terminal};
use crate::mesh::AxisSet;
use crate::metrics::{PrecisionReport, format};

/// Prints the model table, the mesh, the arithmetic of a batch, data, optimizers and steps when
/// everything is set up, and after the first update the element types that its tensors have.
pub struct TrainerSummary {
    terminal: Terminal,
    depth: usize,
}

impl TrainerSummary {
    /// Returns a summary that shows modules down to `depth` path components.
    pub fn new(terminal: Terminal, depth: usize) -> Self {
        Self { terminal, depth }
    }
}

impl Callback for TrainerSummary {
    fn name(&self) -> &'static str {
        "trainer_summary"
    }

    fn post_setup(&mut self, run: &RunView, report: &SetupReport) -> CallbackResult {
        let model = ModelSummary::new(&report.parameters, self.depth).to_string();
        let sections = [(report.model.as_str(), model), ("run", run_section(run, report))];
        self.terminal.line(&framed(&sections));
        Ok(())
    }

    fn post_first_update(&mut self, _: &RunView, report: &PrecisionReport) -> CallbackResult {
        let rows = report.rows().map(|(role, types)| format!("{role:<15}  {types}"));
        let title = format!("precision, read from the tensors of step {}", report.step);
        self.terminal.line(&framed(&[(&title, rows.join("\n"))]));
        Ok(())
    }
}

fn run_section(run: &RunView, report: &SetupReport) -> String {
    let mut rows = vec![
        ("name", run.name.clone()),
        ("mesh", mesh(run)),
        ("batch", batch(run, &report.batch)),
        ("tokens", tokens(run, &report.batch)),
        ("train", report.train_data.clone()),
    ];
    rows.extend(report.validation_data.iter().map(|line| ("validation", line.clone())));
    rows.extend(report.optimizers.iter().map(|line| ("optimizer", line.clone())));
    if let Some(flops) = report.flops_per_token {
        rows.push(("work", format!("{:.2} GFLOP per token", flops / 1e9)));
    }
    rows.push(("steps", steps(run)));
    let lines: Vec<_> = rows.iter().map(|(key, value)| format!("{key:<10}  {value}")).collect();
    lines.join("\n")
}

fn mesh(run: &RunView) -> String {
    let mesh = &run.mesh;
    let sizes: Vec<_> =
        mesh.enabled().iter().map(|axis| format!("{axis} {}", mesh.size(axis))).collect();
    if sizes.is_empty() {
        return "1 rank".to_owned();
    }
    format!("{} ranks = {}", mesh.world_size(), sizes.join(" x "))
}

fn batch(run: &RunView, batch: &BatchShape) -> String {
    format!(
        "{} sequences = {} data-parallel x {} per microbatch x {} accumulated",
        batch.global_batch_size,
        run.mesh.size(AxisSet::DP),
        batch.micro_batch_size,
        batch.gradient_accumulation_steps,
    )
}

fn tokens(run: &RunView, batch: &BatchShape) -> String {
    format!(
        "{} per step = {} sequences x {}",
        format::count(run.tokens_per_step),
        batch.global_batch_size,
        format::count(batch.sequence_length as u64),
    )
}

fn steps(run: &RunView) -> String {
    let tokens = format::count(run.num_steps.saturating_mul(run.tokens_per_step));
    let steps = format!("{} = {tokens} tokens", format::count(run.num_steps));
    match run.start_step {
        0 => steps,
        done => format!("{steps}, continued after step {}", format::count(done)),
    }
}

/// Draws titled sections in one frame.
fn framed(sections: &[(&str, String)]) -> String {
    // A title is one wider than a line: a dash and a blank frame it on the left.
    let longest = |(title, text): &(&str, String)| {
        let lines = text.lines().map(|line| line.chars().count());
        lines.chain([title.chars().count() + 1]).max().unwrap_or(0)
    };
    let width = sections.iter().map(longest).max().unwrap_or(0);
    let edge = |title: &str| format!("+{title:-<fill$}+", fill = width + 2);
    let mut drawn = Vec::new();
    for (title, text) in sections {
        drawn.push(edge(&format!("- {title} ")));
        drawn.extend(text.lines().map(|line| format!("| {line:<width$} |")));
    }
    drawn.push(edge(""));
    drawn.join("\n")
}
