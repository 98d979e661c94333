//! `dream-train summarize`: the model, the mesh and the batch of a configuration, without making a
//! value.

use std::fmt::Write as _;
use std::io::Write;

use super::train::{RunArgs, prepare};
use super::{Exit, Failure};
use crate::callbacks::{ModelSummary, ParameterRow};
use crate::mesh::Axis;
use crate::metrics::format;
use crate::recipe::Recipe;

/// How much of the model is shown.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct SummarizeArgs {
    /// Levels of modules shown
    #[arg(long, default_value_t = 2)]
    pub(crate) depth: usize,
}

pub(super) fn run(
    args: &SummarizeArgs,
    run: &RunArgs,
    recipes: &[Recipe],
    out: &mut impl Write,
) -> Result<(), Failure> {
    let prepared = prepare(run, recipes)?;
    let entries = prepared.parameters().map_err(|error| Failure::new(&error, Exit::Usage))?;
    let rows: Vec<ParameterRow> = entries
        .into_iter()
        .map(|entry| ParameterRow {
            path: entry.path,
            shape: entry.shape,
            trainable: entry.trainable,
            element_bytes: size_of::<f32>(),
        })
        .collect();
    let (plan, training) = (prepared.plan(), &prepared.plan().training);
    let axes = Axis::ALL.map(|axis| format!("{axis} {}", plan.mesh.size(axis))).join(", ");
    let mut text = format!("{}\n", ModelSummary::new(&rows, args.depth));
    let _ = writeln!(text, "mesh      {axes} = {} ranks", plan.mesh.world_size());
    let _ = writeln!(
        text,
        "step      {} sequences x {} tokens = {} micro x {} accumulation x {} data-parallel ranks",
        training.global_batch_size,
        training.sequence_length,
        training.micro_batch_size,
        training.gradient_accumulation_steps,
        plan.dp_size()
    );
    if let Some(flops) = prepared.flops_per_token() {
        let _ = writeln!(
            text,
            "flops     {} per token, forward and backward",
            format::count(flops as u64)
        );
    }
    out.write_all(text.as_bytes()).map_err(|error| Failure::new(&error, Exit::Environment))
}
