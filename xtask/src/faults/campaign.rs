//! Arguments, cases in order, the report.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;

use super::dice::Dice;
use super::failure::{Failure, Fault};
use super::kinds::{Good, Kind};
use super::lab::Lab;
use super::reference::{References, remove};
use super::setup::Setup;
use super::stage::Stage;
use crate::command::{self, root};

/// Which cases, and of what.
#[derive(Args)]
pub(crate) struct FaultsArgs {
    /// Cases to try
    #[arg(long, default_value_t = 60)]
    cases: u64,
    /// Everything random is a function of this and the number of the case, times of processes apart
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Ranks are two processes under `mpirun`
    #[arg(long)]
    mpi: bool,
    /// Does nothing but this
    #[arg(long)]
    kind: Option<Kind>,
    /// Tries the case of this number alone
    #[arg(long, value_name = "NUMBER")]
    case: Option<u64>,
    /// Program to try [default: built in release mode]
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Keeps the folders of all cases, not of failed ones alone
    #[arg(long)]
    keep: bool,
    /// Cases at a time
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Seconds after which a process is said to hang
    #[arg(long, default_value_t = 60)]
    limit: u64,
}

/// What was found, by kind.
#[derive(Default)]
struct Report {
    good: BTreeMap<(Kind, Good), u64>,
    bad: BTreeMap<(Kind, Fault), u64>,
}

/// Tries all cases and fails if one of them does.
pub(crate) fn run(args: &FaultsArgs) -> Result<(), String> {
    let lab = lab(args)?;
    let numbers: Vec<u64> = args.case.map_or_else(|| (0..args.cases).collect(), |case| vec![case]);
    let (next, report) = (AtomicU64::new(0), Mutex::new(Report::default()));
    let begun = Instant::now();
    thread::scope(|scope| {
        for _ in 0..args.jobs.max(1) {
            scope.spawn(|| {
                while let Some(case) = numbers.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                    let (kind, result) = one(args, &lab, *case);
                    let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
                    report.add(args, &lab, *case, kind, result);
                }
            });
        }
    });
    let report = report.into_inner().unwrap_or_else(PoisonError::into_inner);
    report.print(begun.elapsed());
    match report.bad.values().sum::<u64>() {
        0 if args.keep => Ok(()),
        0 => remove(&lab.folder).map_err(|failure| failure.to_string()),
        failures => Err(format!("{failures} of {} cases failed", numbers.len())),
    }
}

fn lab(args: &FaultsArgs) -> Result<Lab, String> {
    let program = if let Some(program) = &args.program {
        program.clone()
    } else {
        let features: &[&str] = if args.mpi { &["--features", "mpi"] } else { &[] };
        let arguments = [&["build", "--release", "--bin", "dream-train"], features].concat();
        command::run("cargo", &arguments)?;
        root().join("target/release/dream-train")
    };
    let program =
        fs::canonicalize(&program).map_err(|error| format!("{}: {error}", program.display()))?;
    let only = args.kind.map_or_else(String::new, |kind| format!("-{kind}"));
    let name = format!("seed-{}{}{only}", args.seed, if args.mpi { "-mpi" } else { "" });
    let folder = root().join("target/faults").join(name);
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(failed)?;
    }
    fs::create_dir_all(&folder).map_err(failed)?;
    let lab = Lab {
        program,
        limit: Duration::from_secs(args.limit),
        processes: args.mpi.then_some(2),
        references: References::default(),
        folder: fs::canonicalize(&folder).map_err(failed)?,
    };
    let words = "the quick brown fox jumps over the lazy dog\n".repeat(200);
    fs::write(lab.words(), words).map_err(failed)?;
    Ok(lab)
}

fn one(args: &FaultsArgs, lab: &Lab, case: u64) -> (Kind, Result<Good, Failure>) {
    let mut dice = Dice::new(args.seed, case);
    let chosen = Kind::choose(&mut dice, args.mpi);
    let kind = args.kind.unwrap_or(chosen);
    let mut setup = Setup::choose(&mut dice, lab.processes);
    kind.adjust(&mut setup);
    let tried = Stage::new(lab, dice, setup, case).and_then(|mut stage| {
        let good = kind.run(&mut stage);
        // Whatever is left of a failed case must not disturb the next one.
        let left = stage.settle();
        let good = good?;
        left?;
        if !args.keep {
            remove(&stage.folder)?;
        }
        Ok(good)
    });
    (kind, tried)
}

impl Report {
    #[expect(clippy::print_stdout, reason = "a developer tool speaks to its developer")]
    fn add(
        &mut self,
        args: &FaultsArgs,
        lab: &Lab,
        case: u64,
        kind: Kind,
        result: Result<Good, Failure>,
    ) {
        match result {
            Ok(good) => *self.good.entry((kind, good)).or_default() += 1,
            Err(failure) => {
                *self.bad.entry((kind, failure.fault)).or_default() += 1;
                let mpi = if args.mpi { " --mpi" } else { "" };
                let only = args.kind.map_or_else(String::new, |kind| format!(" --kind {kind}"));
                println!(
                    "FAILED {kind}: {failure}\n  again: cargo xtask faults --seed {} --case {case}{mpi}{only}\n  folder: {}",
                    args.seed,
                    lab.folder.join(format!("case-{case}")).display()
                );
            }
        }
    }

    #[expect(clippy::print_stdout, reason = "a developer tool speaks to its developer")]
    fn print(&self, time: Duration) {
        let kinds = self.good.keys().map(|key| key.0).chain(self.bad.keys().map(|key| key.0));
        let mut kinds: Vec<Kind> = kinds.collect();
        kinds.sort_unstable();
        kinds.dedup();
        println!("{:<12}{:>10}{:>10}{:>10}  failures", "kind", "completed", "refused", "skipped");
        for kind in kinds {
            let good = |good| self.good.get(&(kind, good)).copied().unwrap_or(0);
            let bad = self.bad.iter().filter(|(key, _)| key.0 == kind);
            let bad: Vec<String> = bad.map(|(key, count)| format!("{count} {}", key.1)).collect();
            println!(
                "{kind:<12}{:>10}{:>10}{:>10}  {}",
                good(Good::Completed),
                good(Good::Refused),
                good(Good::Skipped),
                if bad.is_empty() { "0".to_owned() } else { bad.join(", ") },
            );
        }
        let count = |counts: &mut dyn Iterator<Item = &u64>| counts.sum::<u64>();
        let (good, bad) = (count(&mut self.good.values()), count(&mut self.bad.values()));
        println!("{} cases in {:.0} s, {bad} failures", good + bad, time.as_secs_f64());
    }
}
