//! `dream-train benchmark`: the steps of a configuration, timed and thrown away.

use std::io::{self, Write};
use std::path::PathBuf;

use super::recording::Recording;
use super::train::{RunArgs, prepare, ranks};
use super::{Exit, Failure, logging};
use crate::callbacks::{Benchmark, CallbackSet, Terminal};
use crate::metrics::TraceWindow;
use crate::recipe::Recipe;
use crate::run_folder::RunFolder;
use crate::train::Interrupt;

/// How long it is timed.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct BenchmarkArgs {
    /// Steps timed
    #[arg(long, default_value_t = 20)]
    pub(crate) steps: u64,
    /// Steps before those, left out of the statistics
    #[arg(long, default_value_t = 3)]
    pub(crate) warmup: u64,
    /// Prints one line of JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// File that receives a trace of the timed steps, as `profile` writes it
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: Option<PathBuf>,
}

/// Times steps without sinks, checkpoints or validation.
pub(super) fn run(
    args: &BenchmarkArgs,
    run: &RunArgs,
    recipes: &[Recipe],
    interrupt: &Interrupt,
    _: &mut impl Write,
) -> Result<(), Failure> {
    let run = only_steps(run, args.steps + args.warmup);
    let prepared = prepare(&run, recipes)?;
    let environment = |error: io::Error| Failure::new(&error, Exit::Environment);
    let filter = logging::Filter::from_environment()?;
    let terminal = Terminal::standard().map_err(environment)?.colored(false);
    let plan = prepared.plan();
    let ranks = ranks(prepared.as_ref())?;
    let window = TraceWindow { wait: 0, warmup: args.warmup };
    let recording = args.trace.as_deref().map(|file| Recording::start(file, &ranks, window));
    let recording = recording.transpose()?;
    let trace = recording.as_ref().map(|recording| recording.trace.clone());
    logging::start(&filter, &terminal, None, &ranks, run.verbosity(), trace)
        .map_err(environment)?;
    let callbacks = |rank| {
        let mut set = CallbackSet::new(rank);
        let benchmark = Benchmark::new(terminal.clone(), args.warmup)
            .with_peak_flops(plan.metrics.peak_flops)
            .with_memory(true)
            .with_json(args.json);
        set.push(Box::new(benchmark)).expect("the only callback has a name of its own");
        set
    };
    let folder = RunFolder::unwritten(plan.run.directory());
    prepared
        .fit_in(&folder, &ranks, interrupt, &callbacks)
        .map_err(|failure| Failure::run(&failure, &plan.mesh))?;
    recording.map_or(Ok(()), |recording| recording.write().map(|_| ()))
}

/// Changes a run to one of so many steps that leaves nothing behind.
pub(super) fn only_steps(run: &RunArgs, steps: u64) -> RunArgs {
    let mut run = run.clone();
    run.sets.extend(
        [
            "checkpoint.enable=false",
            "training_parameters.num_sanity_val_steps=0",
            "training_parameters.val_every_n_steps=0",
            "lr_scheduler.warmup_steps=0",
        ]
        .map(String::from),
    );
    // Where the run would start and how long it would be is nothing to a run that leaves no trace.
    run.without.extend([
        "checkpoint.resume",
        "checkpoint.resume_step",
        "checkpoint.reset",
        "checkpoint.branch",
        "training_parameters.epochs",
    ]);
    run.sets.push(format!("training_parameters.steps={steps}"));
    run
}
