//! `dream-train profile`: when every rank does what in a few steps.

use std::io::{self, Write};
use std::path::PathBuf;

use super::benchmark::only_steps;
use super::recording::{Recording, unwritable};
use super::train::{RunArgs, prepare, ranks};
use super::{Exit, Failure, logging};
use crate::callbacks::{CallbackSet, Terminal, finish_console};
use crate::metrics::TraceWindow;
use crate::recipe::Recipe;
use crate::run_folder::RunFolder;
use crate::train::Interrupt;

/// What is recorded, and where it goes.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ProfileArgs {
    /// Steps recorded
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) steps: u64,
    /// First steps of which nothing is recorded
    #[arg(long, default_value_t = 1)]
    pub(crate) wait: u64,
    /// Steps after those that are recorded and thrown away
    #[arg(long, default_value_t = 2)]
    pub(crate) warmup: u64,
    /// File that receives the trace
    #[arg(long, value_name = "FILE", default_value = "trace.json")]
    pub(crate) output: PathBuf,
}

/// Runs the steps without sinks, checkpoints or validation and writes the trace.
pub(super) fn run(
    args: &ProfileArgs,
    run: &RunArgs,
    recipes: &[Recipe],
    interrupt: &Interrupt,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let run = only_steps(run, args.wait + args.warmup + args.steps);
    let prepared = prepare(&run, recipes)?;
    let plan = prepared.plan();
    let environment = |error: io::Error| Failure::new(&error, Exit::Environment);
    let filter = logging::Filter::from_environment()?;
    let ranks = ranks(prepared.as_ref())?;
    let window = TraceWindow { wait: args.wait, warmup: args.warmup };
    let recording = Recording::start(&args.output, &ranks, window)?;
    let terminal = Terminal::standard().map_err(environment)?.colored(false);
    let trace = Some(recording.trace.clone());
    logging::start(&filter, &terminal, None, &ranks, run.verbosity(), trace)
        .map_err(environment)?;
    let folder = RunFolder::unwritten(plan.run.directory());
    prepared
        .fit_in(&folder, &ranks, interrupt, &CallbackSet::new)
        .map_err(|failure| Failure::run(&failure, &plan.mesh))?;
    let (spans, output) = recording.write()?;
    finish_console();
    let (first, last) = (args.wait + args.warmup + 1, args.wait + args.warmup + args.steps);
    writeln!(
        out,
        "{spans} spans of {} of {} ranks, steps {first} to {last}, in {}; https://ui.perfetto.dev shows them",
        ranks.here().len(),
        plan.mesh.world_size(),
        output.display()
    )
    .map_err(|error| unwritable(&output, &error))
}
