//! `dream-train launch`: starts the ranks of a run as processes, and supervises them.

mod command;
mod layout;
mod lifeline;
mod outcome;
mod signal;
mod supervise;

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;

use super::train::{RunArgs, launched, processes};
use super::{Exit, Failure};
use crate::comm::{JoinError, process_engine};
use crate::recipe::Recipe;
use crate::train::Interrupt;
use crate::world::{Launcher, env, visible_gpus};

use command::{Scheduler, StartLine};
use layout::{Layout, Wanted};
pub(super) use lifeline::follow_supervisor;
use supervise::{Policy, supervise};

/// How a run is watched over.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Supervision {
    /// Starts the run again, from its newest checkpoint, up to this many times
    #[arg(long, value_name = "N")]
    max_restarts: Option<u32>,
    /// Ends a run that has printed nothing for so long, with exit code 124
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    idle_timeout: Option<u64>,
    /// Seconds before the first restart; each later one waits twice as long, up to a minute
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    restart_delay: u64,
}

/// What to start, and how.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct LaunchArgs {
    /// Processes, one rank each [default: those of the allocation; otherwise one, with ranks as
    /// threads]
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    nproc: Option<u32>,
    /// Nodes [default: those of the allocation]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    nodes: Option<u32>,
    /// Processes on each node [default: those of the allocation]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    ranks_per_node: Option<u32>,
    /// Who starts the processes
    #[arg(long, value_enum, default_value = "auto")]
    scheduler: Scheduler,
    /// One more argument for `srun` or `mpiexec`, such as `--launcher-arg=--cpu-bind=cores`
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    launcher_arg: Vec<String>,
    /// Prints the command and starts nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    supervision: Supervision,
    /// Arguments of the run, as after `dream-train`
    #[arg(last = true, value_name = "RUN ARGUMENTS")]
    arguments: Vec<OsString>,
}

impl Supervision {
    fn policy(&self) -> Policy {
        let second = std::time::Duration::from_secs;
        Policy {
            max_restarts: self.max_restarts.unwrap_or(0),
            idle_timeout: self.idle_timeout.map(second),
            restart_delay: second(self.restart_delay),
        }
    }

    /// Tells whether anyone asked for it.
    fn is_wanted(&self) -> bool {
        self.max_restarts.is_some() || self.idle_timeout.is_some()
    }
}

/// Starts the processes and waits for them; returns the exit code of the run.
pub(super) fn run(
    args: &LaunchArgs,
    run: &RunArgs,
    interrupt: &Interrupt,
    out: &mut impl Write,
) -> Result<u8, Failure> {
    let variables = env::variables();
    let wanted = Wanted { total: args.nproc, nodes: args.nodes, per_node: args.ranks_per_node };
    let scheduler = args.scheduler.or_detected(&variables);
    let layout = Layout::new(wanted, scheduler.allocation(&variables)).map_err(usage)?;
    let arguments = run.arguments().into_iter().chain(args.arguments.clone()).collect();
    let (program, is_local) = (program()?, scheduler == Scheduler::Local);
    let line = if is_local && layout.total > 1 {
        one_machine(args, layout).map_err(usage)?;
        StartLine::local(layout.total as usize, visible_gpus(), program, arguments)
    } else {
        StartLine::new(scheduler, layout, &args.launcher_arg, program, arguments)
    };
    if args.dry_run {
        let written = writeln!(out, "{line}");
        return written.map(|()| 0).map_err(|error| Failure::new(&error, Exit::Environment));
    }
    if layout.total > 1 && process_engine().is_none() && !cfg!(feature = "cuda") && !is_local {
        let world_size = layout.total as usize;
        let error = JoinError::NotBuilt { launcher: Launcher::OpenMpi, world_size };
        return Err(Failure::new(&error, Exit::Environment));
    }
    supervise(&line, &args.supervision.policy(), interrupt)
}

/// Refuses what makes no sense for processes of this machine.
fn one_machine(args: &LaunchArgs, layout: Layout) -> Result<(), &'static str> {
    if layout.nodes.is_some_and(|nodes| nodes > 1) {
        return Err(
            "`--scheduler local` starts processes on this machine only; several nodes need `slurm`, `pbs` or `mpi`",
        );
    }
    if !args.launcher_arg.is_empty() {
        return Err(
            "`--scheduler local` starts the processes without `srun` or `mpiexec`, so `--launcher-arg` has nowhere to go",
        );
    }
    Ok(())
}

/// Runs the plain command as processes of its own or under supervision, if either is asked for;
/// returns its exit code.
pub(super) fn run_supervised(
    supervision: &Supervision,
    run: &RunArgs,
    recipes: &[Recipe],
    interrupt: &Interrupt,
) -> Result<Option<u8>, Failure> {
    let processes = processes(run, recipes)?;
    if processes.is_none() && !supervision.is_wanted() {
        return Ok(None);
    }
    if launched()?.is_some() {
        return Err(usage(
            "`--max-restarts` and `--idle-timeout` watch over all ranks, but this process is one of them; use `dream-train launch` instead of the launcher",
        ));
    }
    let (program, arguments) = (program()?, run.arguments());
    let line = match processes {
        Some(processes) => StartLine::local(processes, visible_gpus(), program, arguments),
        None => StartLine::alone(program, arguments),
    };
    supervise(&line, &supervision.policy(), interrupt).map(Some)
}

/// Runs this very command again as the ranks of a world on this machine; returns its exit code.
pub(super) fn run_again(
    processes: usize,
    arguments: Vec<OsString>,
    interrupt: &Interrupt,
) -> Result<u8, Failure> {
    let line = StartLine::local(processes, visible_gpus(), program()?, arguments);
    supervise(&line, &Supervision::default().policy(), interrupt)
}

fn usage(text: impl std::fmt::Display) -> Failure {
    Failure { text: format!("error: {text}"), exit: Exit::Usage }
}

/// Returns the path of this program.
fn program() -> Result<OsString, Failure> {
    let path = std::env::current_exe().map_err(|error| Failure::new(&error, Exit::Environment))?;
    Ok(Path::new(&path).as_os_str().to_owned())
}
