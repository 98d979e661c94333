//! The main job: read a configuration, plan it, run it.

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use clap::{ArgAction, Args};

use super::failure::OTHER_FOLDER;
use super::{Exit, Failure, logging, signals};
use crate::callbacks::{self, Terminal, Verbosity};
use crate::comm::{Engine, Ranks, Reduction, join};
use crate::config::{self, DeviceKind, Loaded, RankKind, ReportStyle, ResolvedConfig, Sources};
use crate::recipe::{Prepared, Recipe, find};
use crate::run_folder::RunFolder;
use crate::train::{Interrupt, RunOutcome};
use crate::world::{env, nccl_version, visible_gpus};

/// Which configuration, and how it is run.
#[derive(Debug, Clone, Default, Args)]
#[expect(clippy::struct_excessive_bools, reason = "independent switches of the command line")]
pub(crate) struct RunArgs {
    /// TOML file; a later one wins over an earlier one
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) config: Vec<PathBuf>,
    /// Sets one key, `table.key=value`; wins over files and environment
    #[arg(long = "set", value_name = "KEY=VALUE", global = true)]
    pub(crate) sets: Vec<String>,
    /// Number of ranks started here; short for `--set device_parameters.world_size=N`
    #[arg(long, value_name = "N", id = "run_world_size")]
    pub(crate) world_size: Option<usize>,
    /// Prints the resolved configuration with the origin of each value and runs nothing
    #[arg(long)]
    pub(crate) cfg: bool,
    /// Continues from the newest checkpoint and fails if there is none
    #[arg(long, conflicts_with = "init_from")]
    pub(crate) resume: bool,
    /// Starts from the weights in this checkpoint or Hugging Face directory
    #[arg(long, value_name = "DIR")]
    pub(crate) init_from: Option<PathBuf>,
    /// Dotted keys that count as not written.
    #[arg(skip)]
    pub(crate) without: Vec<&'static str>,
    /// Shows less
    #[arg(long, short, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Shows more
    #[arg(long, short, action = ArgAction::SetTrue)]
    pub(crate) verbose: bool,
}

impl RunArgs {
    fn sources(&self) -> Sources {
        let mut sets = self.sets.clone();
        sets.extend(self.world_size.map(|n| format!("device_parameters.world_size={n}")));
        if self.resume {
            sets.extend(["checkpoint.enable=true".into(), "checkpoint.resume=must".into()]);
        }
        // Quoted as a TOML literal, which keeps every path as it is.
        sets.extend(
            self.init_from
                .as_ref()
                .map(|path| format!("checkpoint.init_from='{}'", path.display())),
        );
        Sources {
            files: self.config.clone(),
            environment: env::dream_train_variables(),
            sets,
            without: self.without.clone(),
        }
    }

    /// Returns the arguments that give these values again.
    pub(super) fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = Vec::new();
        let mut add = |words: &[&OsStr]| arguments.extend(words.iter().map(OsString::from));
        for file in &self.config {
            add(&["--config".as_ref(), file.as_os_str()]);
        }
        for set in &self.sets {
            add(&["--set".as_ref(), set.as_ref()]);
        }
        if let Some(world_size) = self.world_size {
            add(&["--world-size".as_ref(), world_size.to_string().as_ref()]);
        }
        if let Some(weights) = &self.init_from {
            add(&["--init-from".as_ref(), weights.as_os_str()]);
        }
        let switches = [
            (self.cfg, "--cfg"),
            (self.resume, "--resume"),
            (self.quiet, "--quiet"),
            (self.verbose, "--verbose"),
        ];
        for (_, switch) in switches.into_iter().filter(|(is_on, _)| *is_on) {
            add(&[switch.as_ref()]);
        }
        arguments
    }

    pub(super) fn verbosity(&self) -> Verbosity {
        match (self.quiet, self.verbose) {
            (true, _) => Verbosity::Quiet,
            (_, true) => Verbosity::Verbose,
            _ => Verbosity::Normal,
        }
    }
}

/// Returns how errors are drawn on this standard error.
fn style() -> ReportStyle {
    let is_rich = io::stderr().is_terminal() && !env::wants_plain_output();
    ReportStyle { is_colored: is_rich, is_unicode: is_rich, width: 100 }
}

/// Reads and resolves the configuration and finds its recipe.
pub(super) fn load<'a>(
    args: &RunArgs,
    recipes: &'a [Recipe],
) -> Result<(Loaded, ResolvedConfig, &'a Recipe), Failure> {
    let fail = |errors| Failure::config(&errors, style());
    let launched = launched()?.map(|external| external.world.world_size);
    if args.config.is_empty() && args.sets.is_empty() {
        let text = "error: no configuration; give `--config FILE`, for example `--config configs/llama3_debug.toml`".into();
        return Err(Failure { text, exit: Exit::Usage });
    }
    let mut loaded = config::load(&args.sources()).map_err(fail)?;
    if launched.is_none() && loaded.config.device_parameters.device == DeviceKind::Cuda {
        loaded.gpus = visible_gpus();
    }
    let resolved = loaded.resolve(launched).map_err(fail)?;
    let recipe = find(recipes, &resolved.model).map_err(fail)?;
    Ok((loaded, resolved, recipe))
}

/// Reads and checks a configuration, with its recipe's part.
pub(super) fn prepare<'a>(
    args: &RunArgs,
    recipes: &'a [Recipe],
) -> Result<Box<dyn Prepared + 'a>, Failure> {
    let (loaded, resolved, recipe) = load(args, recipes)?;
    recipe.prepare(&loaded, &resolved).map_err(|error| Failure::prepare(&error, style()))
}

/// Returns the world of several processes that a launcher started this one into, if one did.
pub(super) fn launched() -> Result<Option<env::External>, Failure> {
    let found = env::detect(&env::variables());
    let found = found.map_err(|error| Failure::new(&error, Exit::Environment))?;
    Ok(found.filter(|external| external.world.world_size > 1))
}

/// Returns the ranks of a plan, which this machine has the memory for.
pub(super) fn ranks(prepared: &dyn Prepared) -> Result<Ranks, Failure> {
    let plan = prepared.plan();
    let ranks = world(plan.mesh.world_size(), plan.device, plan.reduction)?;
    let memory = prepared.check_memory(&ranks);
    memory.map_err(|error| Failure::new(&error, Exit::of(&error)))?;
    Ok(ranks)
}

/// Returns the processes of a launcher's world, which this one joins, or `num_threads` ranks that
/// are threads.
pub(super) fn world(
    num_threads: usize,
    device: DeviceKind,
    reduction: Reduction,
) -> Result<Ranks, Failure> {
    let Some(external) = launched()? else {
        return Ok(Ranks::Threads(num_threads));
    };
    let engine = if device == DeviceKind::Cuda { Engine::Nccl } else { Engine::Mpi };
    let process =
        join(&external, engine).map_err(|error| Failure::new(&error, Exit::Environment))?;
    Ok(Ranks::Process(process, reduction))
}

/// Returns the number of processes that a run starts on this machine, if its ranks are such and no
/// launcher has started them.
///
/// The plan is checked first, so that what is wrong with it is said once.
pub(super) fn processes(args: &RunArgs, recipes: &[Recipe]) -> Result<Option<usize>, Failure> {
    let is_nothing = args.config.is_empty() && args.sets.is_empty();
    if args.cfg || is_nothing || launched()?.is_some() {
        return Ok(None);
    }
    let (loaded, resolved, recipe) = load(args, recipes)?;
    let ranks = resolved.device.mesh.world_size();
    if !are_processes(resolved.device.kind, ranks, resolved.device.ranks) {
        return Ok(None);
    }
    recipe.prepare(&loaded, &resolved).map_err(|error| Failure::prepare(&error, style()))?;
    Ok(Some(ranks))
}

/// Tells whether so many ranks are processes of this machine.
pub(super) fn are_processes(device: DeviceKind, ranks: usize, wish: Option<RankKind>) -> bool {
    let wants = || match wish {
        Some(wish) => wish == RankKind::Processes,
        None => nccl_version().is_some(),
    };
    device == DeviceKind::Cuda && ranks > 1 && wants()
}

/// Trains, or prints the plan with `--cfg`.
pub(super) fn run(
    args: &RunArgs,
    recipes: &[Recipe],
    interrupt: &Interrupt,
    out: &mut impl Write,
) -> Result<Exit, Failure> {
    let prepared = prepare(args, recipes)?;
    if args.cfg {
        if launched()?.is_some_and(|external| !external.world.is_main()) {
            return Ok(Exit::Ok);
        }
        let written = out.write_all(prepared.plan().config_text.as_bytes());
        return written.map(|()| Exit::Ok).map_err(|error| Failure::new(&error, Exit::Environment));
    }
    let outcome = fit(prepared.as_ref(), args.verbosity(), interrupt)?;
    Ok(if outcome.interrupted { Exit::Interrupted } else { Exit::Ok })
}

/// Runs a prepared plan on the console.
pub(super) fn fit(
    prepared: &dyn Prepared,
    verbosity: Verbosity,
    interrupt: &Interrupt,
) -> Result<RunOutcome, Failure> {
    let filter = logging::Filter::from_environment()?;
    let environment = |error: io::Error| Failure::new(&error, Exit::Environment);
    signals::interrupt_run(interrupt).map_err(environment)?;
    let terminal = Terminal::standard().map_err(environment)?.with_bars();
    let plan = prepared.plan();
    let ranks = ranks(prepared)?;
    let folder = RunFolder::claim(&plan.run.directory(), &ranks, plan.timeouts);
    let folder = folder.map_err(|error| Failure::folder(&error))?;
    let unwritable = |error: io::Error| Failure {
        text: format!(
            "error: cannot write the logs of the run folder {}\n  caused by: {error}\n  help: {OTHER_FOLDER}",
            folder.directory().display()
        ),
        exit: Exit::Environment,
    };
    let logs = folder.directory().join("logs");
    logging::start(&filter, &terminal, Some(&logs), &ranks, verbosity, None).map_err(unwritable)?;
    if let Some(note) = env::alone_in_allocation(&env::variables()) {
        tracing::warn!("{note}");
    }

    let callbacks =
        |rank| callbacks::build(&plan.metrics, &plan.callbacks, rank, &terminal, verbosity);
    let outcome = prepared.fit_in(&folder, &ranks, interrupt, &callbacks);
    outcome.map_err(|failure| Failure::run(&failure, &plan.mesh))
}
