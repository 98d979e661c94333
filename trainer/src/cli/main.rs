//! Arguments, and which subcommand they run.

use std::error::Error;
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use super::output::Output;
use super::train::RunArgs;
use super::{
    Exit, Failure, bench_comm, bench_kernels, benchmark, config, data, doctor, launch, output,
    pipeline, plan, profile, selftest, summarize, topo, train,
};
use crate::callbacks::finish_console;
use crate::comm::{Ranks, Reduction, joined};
use crate::config::DeviceKind;
use crate::recipe::Recipe;
use crate::train::Interrupt;
use crate::world::env;

/// Trains models on any mesh of devices, from one configuration file.
#[derive(Debug, Parser)]
#[command(
    name = "dream-train",
    version,
    args_conflicts_with_subcommands = false,
    subcommand_negates_reqs = true
)]
pub struct Cli {
    #[command(flatten)]
    run: RunArgs,
    #[command(flatten)]
    supervision: launch::Supervision,
    /// Ends with the supervisor at the other end of the standard input; for `launch` alone
    #[arg(long, hide = true, global = true, overrides_with = "supervised")]
    supervised: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Starts a run on several processes or nodes and supervises it
    Launch(launch::LaunchArgs),
    /// Prints the mesh of any world: coordinates, groups, valid shapes
    Topo(topo::TopoArgs),
    /// Draws a pipeline schedule of any size: order, idle time, live microbatches
    Pipeline(pipeline::PipelineArgs),
    /// Checks how a configuration lies over its ranks and prints what each will hold
    Plan(plan::PlanArgs),
    /// Prints the model, the mesh and the batch of a configuration
    Summarize(summarize::SummarizeArgs),
    /// Runs every collective on known inputs
    Selftest(selftest::SelftestArgs),
    /// Shows what this machine and this build offer, and what is missing
    Doctor(doctor::DoctorArgs),
    /// Measures the bandwidth of collectives
    BenchComm(bench_comm::BenchCommArgs),
    /// Times every fused operation at the shapes of a Llama
    BenchKernels(bench_kernels::BenchKernelsArgs),
    /// Times the steps of a configuration
    Benchmark(benchmark::BenchmarkArgs),
    /// Writes what every rank does in a few steps as a trace for Perfetto
    Profile(profile::ProfileArgs),
    /// Works on training data ahead of a run
    Data(data::DataArgs),
    /// Describes configuration files
    Config(config::ConfigArgs),
    /// Prints a shell's completion script
    Completions {
        /// Shell
        shell: clap_complete::Shell,
    },
}

/// Runs the program with the given recipes and returns its exit code.
pub fn main(recipes: impl IntoIterator<Item = Recipe>) -> ExitCode {
    crate::allocator::keep_freed_memory();
    output::print_panics();
    let recipes: Vec<Recipe> = recipes.into_iter().collect();
    let mut out = Output::new(io::stdout());
    let ran = run(std::env::args_os(), &recipes, &mut out);
    let printed = out.end();
    finish_console();
    let unprinted = printed.map_err(|error| Failure {
        text: format!("error: cannot write to standard output\n  caused by: {error}"),
        exit: Exit::Environment,
    });
    let code = ran.and_then(|code| unprinted.map(|()| code)).unwrap_or_else(|failure| {
        report(&failure.text);
        failure.exit as u8
    });
    if let Some(world) = joined() {
        world.end(code);
    }
    code.into()
}

fn run(
    arguments: impl IntoIterator<Item = OsString>,
    recipes: &[Recipe],
    out: &mut impl Write,
) -> Result<u8, Failure> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors; clap knows where each goes.
            let (is_error, text) = (error.use_stderr(), error.render());
            let colored = |is_terminal: bool| is_terminal && !env::wants_plain_output();
            let shown = |colored| if colored { text.ansi().to_string() } else { text.to_string() };
            if is_error {
                let text = shown(colored(io::stderr().is_terminal()));
                return Err(Failure { text, exit: Exit::Usage });
            }
            // The first error that `out` meets is kept for the end.
            let _ = write!(out, "{}", shown(colored(io::stdout().is_terminal())));
            return Ok(Exit::Ok as u8);
        }
    };
    #[cfg(feature = "cuda")]
    super::gpu::prefer_attention(env::variable(env::ATTENTION_VARIABLE))?;
    let run = &cli.run;
    let interrupt = Interrupt::default();
    if cli.supervised {
        launch::follow_supervisor(&interrupt)?;
    }
    match &cli.command {
        Some(Command::Launch(args)) => return launch::run(args, run, &interrupt, out),
        None => {
            let supervision = &cli.supervision;
            if let Some(code) = launch::run_supervised(supervision, run, recipes, &interrupt)? {
                return Ok(code);
            }
        }
        Some(command) => {
            if let Some(processes) = processes(command, run, recipes)? {
                let again = arguments.into_iter().skip(1).collect();
                return launch::run_again(processes, again, &interrupt);
            }
        }
    }
    dispatch(cli.command.as_ref(), run, recipes, &interrupt, out).map(|exit| exit as u8)
}

/// Returns the number of processes that a command starts, if its ranks are such.
fn processes(
    command: &Command,
    run: &RunArgs,
    recipes: &[Recipe],
) -> Result<Option<usize>, Failure> {
    let (device, ranks) = match command {
        Command::Benchmark(_) | Command::Profile(_) => return train::processes(run, recipes),
        Command::Selftest(args) => (args.device, args.world_size),
        _ => return Ok(None),
    };
    let is_alone = train::launched()?.is_none();
    Ok((is_alone && train::are_processes(device, ranks, None)).then_some(ranks))
}

fn dispatch(
    command: Option<&Command>,
    run: &RunArgs,
    recipes: &[Recipe],
    interrupt: &Interrupt,
    out: &mut impl Write,
) -> Result<Exit, Failure> {
    match command {
        // What `launch` starts has its own exit code and was dealt with before.
        None | Some(Command::Launch(_)) => train::run(run, recipes, interrupt, out),
        Some(Command::Topo(args)) => {
            let hinted = |error: topo::TopoError| {
                let hint =
                    error.hint().map_or_else(String::new, |hint| format!("\n  help: {hint}"));
                let failure = Failure::new(&error, Exit::Usage);
                Failure { text: failure.text + &hint, ..failure }
            };
            topo::run(args, out).map_err(hinted).map(|()| Exit::Ok)
        }
        Some(Command::Pipeline(args)) => pipeline::run(args, out).map(|()| Exit::Ok),
        Some(Command::Plan(args)) => plan::run(args, run, recipes, out).map(|()| Exit::Ok),
        Some(Command::Summarize(args)) => {
            summarize::run(args, run, recipes, out).map(|()| Exit::Ok)
        }
        Some(Command::Selftest(args)) => {
            let ranks = train::world(args.world_size, args.device, Reduction::MemberOrder)?;
            let run = |out: &mut dyn Write| selftest::run(args, &ranks, out);
            ended(shown(&ranks, out, run), Exit::Environment)
        }
        Some(Command::Doctor(args)) => doctor::run(args, run, recipes, out).map(|()| Exit::Ok),
        Some(Command::BenchComm(args)) => {
            let ranks = train::world(args.world_size, DeviceKind::Cpu, args.reduction)?;
            let run = |out: &mut dyn Write| bench_comm::run(args, &ranks, out);
            ended(shown(&ranks, out, run), Exit::Environment)
        }
        Some(Command::BenchKernels(args)) => {
            let exit = |error: &bench_kernels::BenchKernelsError| match error {
                bench_kernels::BenchKernelsError::Arguments(_) => Exit::Usage,
                _ => Exit::Environment,
            };
            bench_kernels::run(args, out)
                .map_err(|error| Failure::new(&error, exit(&error)))
                .map(|()| Exit::Ok)
        }
        Some(Command::Benchmark(args)) => {
            benchmark::run(args, run, recipes, interrupt, out).map(|()| Exit::Ok)
        }
        Some(Command::Profile(args)) => {
            profile::run(args, run, recipes, interrupt, out).map(|()| Exit::Ok)
        }
        Some(Command::Data(args)) => ended(data::run(args, out), Exit::Data),
        Some(Command::Config(args)) => {
            let schemas =
                recipes.iter().map(|recipe| (recipe.name().to_owned(), recipe.schema())).collect();
            ended(args.run(&schemas, out), Exit::Environment)
        }
        Some(Command::Completions { shell }) => {
            clap_complete::generate(*shell, &mut Cli::command(), "dream-train", out);
            Ok(Exit::Ok)
        }
    }
}

/// Runs a command of which only rank 0 shows the result.
fn shown<T>(ranks: &Ranks, out: &mut dyn Write, run: impl FnOnce(&mut dyn Write) -> T) -> T {
    if ranks.is_main() { run(out) } else { run(&mut io::sink()) }
}

fn ended<E: Error + 'static>(result: Result<(), E>, exit: Exit) -> Result<Exit, Failure> {
    result.map(|()| Exit::Ok).map_err(|error| Failure::new(&error, exit))
}

/// Shows a failure: in full where rank 0 or the only process is, or where all ranks know of it
/// through this one; otherwise its first line under the name of the rank.
fn report(text: &str) {
    let launched = train::launched().ok().flatten().map(|external| external.world);
    match launched.filter(|world| !world.is_main() && joined().is_none()) {
        Some(world) => {
            let first = text.lines().next().unwrap_or_default();
            output::tell(&format!("rank {}: {first}", world.rank));
        }
        None => output::tell(text),
    }
}

/// Ends the process at once, for a run whose supervisor is gone.
#[expect(clippy::exit, reason = "the run had its time to end; threads may be stuck")]
pub(crate) fn abort() -> ! {
    std::process::exit(i32::from(Exit::Interrupted as u8))
}
