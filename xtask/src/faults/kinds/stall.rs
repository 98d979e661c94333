//! SIGSTOP: a run that goes on after it is the undisturbed run; under a supervisor a run that stays
//! silent is started again; ranks that wait for a silent process give up in time.

use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::Good;
use crate::faults::failure::{Failure, Fault};
use crate::faults::process::{Running, send};
use crate::faults::processes;
use crate::faults::stage::{Expect, Stage};

/// Arguments of a supervised run that is given up soon.
const SUPERVISED: [&str; 6] =
    ["--idle-timeout", "3", "--max-restarts", "9", "--restart-delay", "0"];
/// Longest pause of a run that goes on.
const PAUSE: Duration = Duration::from_millis(800);

pub(super) fn run(stage: &mut Stage<'_>) -> Result<Good, Failure> {
    match (stage.dice.chance(65), stage.lab.processes.is_some()) {
        (true, _) => pause(stage)?,
        (false, false) => supervised(stage)?,
        (false, true) => silent_rank(stage)?,
    }
    Ok(Good::Completed)
}

/// Returns a process of a run that trains: the run itself, or one of its ranks.
fn victim(stage: &mut Stage<'_>, running: &Running) -> u32 {
    let ranks = processes::children(running.id());
    if ranks.is_empty() { running.id() } else { stage.dice.pick(&ranks) }
}

fn pause(stage: &mut Stage<'_>) -> Result<(), Failure> {
    let mut running = stage.start(stage.command(&[]))?;
    let moment = stage.moment()?;
    if running.lasts(moment)? {
        let victim = victim(stage, &running);
        let pause = stage.dice.time(PAUSE);
        stage.note(&format!("  SIGSTOP to {victim} after {moment:?} for {pause:?}"));
        send(victim, Signal::SIGSTOP);
        sleep(pause);
        send(victim, Signal::SIGCONT);
    }
    stage.end(running)?.check(&[0])?;
    stage.check(Expect::SAME)
}

fn supervised(stage: &mut Stage<'_>) -> Result<(), Failure> {
    let mut running = stage.start(stage.command(&SUPERVISED))?;
    let moment = stage.moment()?;
    if running.lasts(moment)? {
        let victim = victim(stage, &running);
        stage.note(&format!("  SIGSTOP to {victim} of {} after {moment:?}", running.id()));
        if victim != running.id() {
            send(victim, Signal::SIGSTOP);
        }
    }
    stage.end(running)?.check(&[0])?;
    stage.check(Expect::SAME)
}

fn silent_rank(stage: &mut Stage<'_>) -> Result<(), Failure> {
    let timeout = ["--set", "device_parameters.comm.timeout_secs=3"];
    let more = ["--set", "device_parameters.comm.init_timeout_secs=10"];
    let arguments = [timeout, more].concat();
    let mut running = stage.start(stage.command(&arguments))?;
    let moment = stage.moment()?;
    if running.lasts(moment)? {
        let ranks = processes::children(running.id());
        // Before MPI has connected the ranks nobody can miss one of them.
        if stage.run_folder().join("metrics.jsonl").exists() && !ranks.is_empty() {
            let victim = stage.dice.pick(&ranks);
            stage.note(&format!("  SIGSTOP to {victim} after {moment:?}"));
            send(victim, Signal::SIGSTOP);
        }
    }
    let ended = stage.end(running)?;
    if ended.check(&[0, 3])? == 3 && !ended.shown.contains("no sign of life") {
        return Err(Fault::Untold.with(format!("nobody names the silent rank: {}", ended.tail())));
    }
    stage.settle()?;
    stage.complete(&[], Expect::SAME)?;
    Ok(())
}
