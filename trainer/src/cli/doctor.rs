//! `dream-train doctor`: what this machine and this build offer, and what is missing.

use std::io::Write;
use std::path::Path;

use serde::Serialize;

use super::train::{RunArgs, load};
use super::{Exit, Failure, gpu};
use crate::comm::{Engine, join, process_engine};
use crate::config::DeviceKind;
use crate::kernels;
use crate::recipe::Recipe;
use crate::world::env;

/// How the findings are printed.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct DoctorArgs {
    /// Prints JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    Ok,
    Warn,
    Error,
}

#[derive(Debug, Serialize)]
pub(super) struct Finding {
    pub(super) check: &'static str,
    pub(super) level: Level,
    pub(super) found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) remedy: Option<String>,
}

/// Runs every check; an error among them fails the command.
pub(super) fn run(
    args: &DoctorArgs,
    run: &RunArgs,
    recipes: &[Recipe],
    out: &mut impl Write,
) -> Result<(), Failure> {
    let mut findings = vec![
        build(),
        cpu(),
        kernel(),
        threads(),
        processes(),
        launcher(run, recipes),
        output(Path::new("outputs")),
    ];
    findings.extend(gpu::findings());
    findings.extend(configuration(run, recipes));
    let text = if args.json {
        serde_json::to_string_pretty(&findings)
            .map(|text| text + "\n")
            .map_err(|error| Failure::new(&error, Exit::Unexpected))?
    } else {
        findings.iter().map(line).collect()
    };
    out.write_all(text.as_bytes()).map_err(|error| Failure::new(&error, Exit::Environment))?;
    let num_errors = findings.iter().filter(|finding| finding.level == Level::Error).count();
    if num_errors > 0 {
        return Err(Failure {
            text: format!("error: {num_errors} checks found an error"),
            exit: Exit::Environment,
        });
    }
    Ok(())
}

fn line(finding: &Finding) -> String {
    let level = match finding.level {
        Level::Ok => "ok   ",
        Level::Warn => "warn ",
        Level::Error => "ERROR",
    };
    let remedy = finding
        .remedy
        .as_ref()
        .map_or_else(String::new, |remedy| format!("\n                     {remedy}"));
    format!("{level}  {:<12}  {}{remedy}\n", finding.check, finding.found)
}

pub(super) fn ok(check: &'static str, found: impl Into<String>) -> Finding {
    Finding { check, level: Level::Ok, found: found.into(), remedy: None }
}

fn build() -> Finding {
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    let finding = ok(
        "build",
        format!(
            "dream-train {} ({profile}), CPU backend with thread ranks",
            env!("CARGO_PKG_VERSION")
        ),
    );
    if cfg!(debug_assertions) {
        let remedy =
            Some("kernels are several times slower; build with `--release` to train".into());
        return Finding { level: Level::Warn, remedy, ..finding };
    }
    finding
}

fn cpu() -> Finding {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    ok("cpu", format!("{cores} cores, {}", std::env::consts::ARCH))
}

fn kernel() -> Finding {
    let report = kernels::implementation();
    let possible: Vec<_> = kernels::implementations().iter().map(ToString::to_string).collect();
    ok(
        "kernels",
        format!(
            "{} for f32 on the CPU (of {}), {} threads; {} otherwise",
            report.cpu_f32,
            possible.join(", "),
            report.threads,
            report.other
        ),
    )
}

fn threads() -> Finding {
    match env::variable("RAYON_NUM_THREADS") {
        Some(value) => Finding {
            check: "threads",
            level: Level::Warn,
            found: format!("RAYON_NUM_THREADS is `{value}`"),
            remedy: Some(
                "ranks divide the cores among themselves; unset it unless that is not wanted"
                    .into(),
            ),
        },
        None => ok("threads", "each thread rank takes its share of the cores"),
    }
}

/// Says what joins ranks that are processes.
fn processes() -> Finding {
    let none =
        || "no MPI; CPU ranks in several processes need a build with `--features mpi`".into();
    ok("processes", process_engine().unwrap_or_else(none))
}

fn launcher(run: &RunArgs, recipes: &[Recipe]) -> Finding {
    match env::detect(&env::variables()) {
        Ok(None) => match env::alone_in_allocation(&env::variables()) {
            Some(note) => ok("launcher", note),
            None => ok("launcher", "none; ranks are started here"),
        },
        Ok(Some(external)) => {
            let world = external.world;
            let found = format!("{}, rank {} of {}", world.launcher, world.rank, world.world_size);
            if world.world_size > 1
                && let Some(engine) = engine(run, recipes)
                && let Err(error) = join(&external, engine)
            {
                let (level, remedy) = (Level::Error, Some(error.to_string()));
                return Finding { check: "launcher", level, found, remedy };
            }
            ok("launcher", found)
        }
        Err(error) => Finding {
            check: "launcher",
            level: Level::Error,
            found: error.to_string(),
            remedy: None,
        },
    }
}

/// Returns what would join the processes: NCCL if the configuration asks for CUDA. Without one only a
/// build that knows nothing but CPU ranks can tell.
fn engine(run: &RunArgs, recipes: &[Recipe]) -> Option<Engine> {
    let device = load(run, recipes).ok().map(|(_, resolved, _)| resolved.device.kind);
    match device {
        Some(DeviceKind::Cuda) => Some(Engine::Nccl),
        Some(DeviceKind::Wgpu) => None,
        Some(DeviceKind::Cpu) => Some(Engine::Mpi),
        None => (!cfg!(feature = "cuda")).then_some(Engine::Mpi),
    }
}

fn output(path: &Path) -> Finding {
    let existing =
        path.ancestors().find(|path| path.exists() || path.as_os_str().is_empty()).unwrap_or(path);
    let shown = if existing.as_os_str().is_empty() { Path::new(".") } else { existing };
    let read_only = std::fs::metadata(shown).map(|data| data.permissions().readonly());
    match read_only {
        Ok(false) => ok("output", format!("`{}` can hold runs", shown.display())),
        Ok(true) => Finding {
            check: "output",
            level: Level::Error,
            found: format!("`{}` is read-only", shown.display()),
            remedy: Some("choose another `run.output_dir`".into()),
        },
        Err(error) => Finding {
            check: "output",
            level: Level::Error,
            found: format!("`{}`: {error}", shown.display()),
            remedy: None,
        },
    }
}

fn configuration(run: &RunArgs, recipes: &[Recipe]) -> Option<Finding> {
    if run.config.is_empty() {
        return None;
    }
    Some(match load(run, recipes) {
        Ok((_, resolved, recipe)) => ok(
            "config",
            format!("recipe `{}` on {} ranks", recipe.name(), resolved.device.mesh.world_size()),
        ),
        Err(failure) => {
            Finding { check: "config", level: Level::Error, found: failure.text, remedy: None }
        }
    })
}
