//! A supervisor that is killed takes the ranks of its run with it, and the folder is free for the next start.

use nix::sys::signal::Signal;

use super::Good;
use crate::faults::failure::Failure;
use crate::faults::process::send;
use crate::faults::stage::{Expect, Stage};

/// Arguments of a run in a folder of its own that nobody waits for.
const ENDLESS: [&str; 4] =
    ["--set", "run.experiment=endless", "--set", "training_parameters.steps=10000000"];

pub(super) fn run(stage: &mut Stage<'_>) -> Result<Good, Failure> {
    supervised(stage, &ENDLESS)?;
    supervised(stage, &[])?;
    stage.complete(&[], Expect::SAME)?;
    Ok(Good::Completed)
}

/// Starts a supervised run and kills its supervisor; nothing of it may stay.
fn supervised(stage: &mut Stage<'_>, more: &[&str]) -> Result<(), Failure> {
    let idle: &[&str] = if stage.dice.chance(50) { &["--idle-timeout", "30"] } else { &[] };
    let arguments = [&["--config", "run.toml", "--max-restarts", "3"][..], idle, more].concat();
    let command = if let Some(processes) = stage.lab.processes {
        let nproc = processes.to_string();
        let arguments = [&["launch", "--nproc", &nproc][..], &arguments].concat();
        stage.lab.command(&stage.folder, None, &arguments)
    } else {
        stage.lab.command(&stage.folder, None, &arguments)
    };
    let mut running = stage.start(command)?;
    let moment = stage.moment()?;
    if running.lasts(moment)? {
        stage.note(&format!("  SIGKILL to the supervisor after {moment:?}"));
        send(running.id(), Signal::SIGKILL);
    }
    stage.end(running)?;
    stage.settle_ranks()
}
