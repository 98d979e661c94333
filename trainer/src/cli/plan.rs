//! `dream-train plan`: what each rank of a configuration will hold, checked and printed without
//! starting a rank or making a value.

use std::fmt::Write as _;
use std::io::Write;

use super::train::{RunArgs, prepare};
use super::{Exit, Failure};
use crate::mesh::AxisSet;
use crate::metrics::format;
use crate::recipe::{Prepared, Recipe};
use crate::tensor_parallel::TensorParallelOptions;
use crate::train::{Placements, TrainError};

/// What is shown of the plan.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct PlanArgs {
    /// Shows for each layer its style, layouts, collectives, and the shapes of its parameters
    #[arg(long)]
    pub(crate) placements: bool,
}

pub(super) fn run(
    args: &PlanArgs,
    run: &RunArgs,
    recipes: &[Recipe],
    out: &mut impl Write,
) -> Result<(), Failure> {
    let prepared = prepare(run, recipes)?;
    let text = describe(prepared.as_ref(), args.placements)
        .map_err(|error| Failure::new(&error, Exit::Usage))?;
    out.write_all(text.as_bytes()).map_err(|error| Failure::new(&error, Exit::Environment))
}

/// Writes the plan of a run.
///
/// # Errors
///
/// The recipe cannot build or split the model.
fn describe(prepared: &dyn Prepared, shows_placements: bool) -> Result<String, TrainError> {
    let plan = prepared.plan();
    let mesh = &plan.mesh;
    let last = mesh.world_size() - 1;
    // Where sizes do not divide, the first rank holds most and the last one least.
    let (most, least) = (prepared.placements(0)?, prepared.placements(last)?);
    let mut text = String::new();
    let mut row = |name: &str, value: &str| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name:<12}  {value}");
    };
    let axes: Vec<_> =
        mesh.enabled().iter().map(|axis| format!("{axis} {}", mesh.size(axis))).collect();
    match &axes[..] {
        [] => row("mesh", "1 rank"),
        axes => row("mesh", &format!("{} ranks = {}", last + 1, axes.join(" x "))),
    }
    row("parameters", &parameters(&most, &least));
    let training = &plan.training;
    let (sequences, length) = (training.micro_batch_size, training.sequence_length);
    let activations = prepared.activation_bytes().map_or_else(
        || "no estimate for this model and these settings".to_owned(),
        |bytes| {
            let bytes = format::bytes(bytes);
            format!(
                "{bytes} per rank for {sequences} x {length} tokens, estimated; a run measures them"
            )
        },
    );
    row("activations", &activations);
    let shards = mesh.size(AxisSet::FSDP);
    if shards > 1 {
        row("fully_shard", &format!("splits what tensor parallelism leaves over {shards} ranks"));
    }
    if most.tensor_parallel.is_empty() {
        row("tp", "off: `device_parameters.tensor_parallel` is 1, so matrices stay whole");
    } else {
        row("tp", &switches(plan.tensor_parallel));
    }
    if shows_placements {
        for resolved in &most.tensor_parallel {
            let _ = writeln!(text, "\n{resolved}");
        }
    }
    Ok(text)
}

fn switches(options: TensorParallelOptions) -> String {
    let switch = |name: &str, on: bool| format!("{name} {}", if on { "on" } else { "off" });
    [
        switch("sequence_parallel", options.sequence_parallel),
        switch("loss_parallel", options.loss_parallel),
        switch("async_tensor_parallel", options.overlap),
    ]
    .join(", ")
}

fn parameters(most: &Placements, least: &Placements) -> String {
    let whole = most.num_parameters();
    let [most, least] = [most, least].map(Placements::num_local_parameters);
    let count = |number: usize| format::count(number as u64);
    if most == whole && least == whole {
        return format!("{}, whole on every rank", count(whole));
    }
    let share = format::percent(most as f64 / whole.max(1) as f64);
    let range = if least == most { String::new() } else { format!("{} to ", count(least)) };
    format!("{}, of which a rank holds {range}{} ({share})", count(whole), count(most))
}
