//! SIGTERM, SIGINT and SIGHUP end a run after its step and save; SIGUSR1 saves and goes on; a second
//! wish ends at once; what a parent ignores stays ignored.

use std::process::Command;

use nix::sys::signal::Signal;

use super::Good;
use crate::faults::failure::Failure;
use crate::faults::lab::clean;
use crate::faults::process::{Running, send};
use crate::faults::processes;
use crate::faults::stage::{Expect, Stage};

pub(super) fn run(stage: &mut Stage<'_>) -> Result<Good, Failure> {
    if stage.lab.processes.is_none() && stage.dice.chance(10) {
        hangup_is_ignored(stage)?;
        return Ok(Good::Completed);
    }
    for _ in 0..=stage.dice.below(3) {
        let what = stage.dice.pick(&[
            Signal::SIGTERM,
            Signal::SIGINT,
            Signal::SIGHUP,
            Signal::SIGUSR1,
            Signal::SIGUSR1,
        ]);
        if one(stage, what)? {
            break;
        }
    }
    stage.complete(&[], Expect::SAME)?;
    Ok(Good::Completed)
}

/// Sends a signal to a run at a random moment, sometimes twice; returns whether the run went to its
/// end.
fn one(stage: &mut Stage<'_>, what: Signal) -> Result<bool, Failure> {
    let mut running = stage.start(stage.command(&[]))?;
    let moment = stage.moment()?;
    let (mut is_early, mut is_sent) = (false, false);
    if running.lasts(moment)? {
        is_early = !stage.run_folder().join("metrics.jsonl").exists();
        is_sent = true;
        stage.note(&format!("  {what} after {moment:?}"));
        tell(&running, what);
        if stage.dice.chance(20) {
            let pause = stage.dice.time(std::time::Duration::from_millis(20));
            running.lasts(pause)?;
            tell(&running, what);
        }
    }
    let ended = stage.end(running)?;
    stage.settle()?;
    // Before it listens, a program does what the system does.
    let by_system = ended.is_by(what) || ended.code() == 128 + what as i32;
    // `mpirun` answers a wish to end with an exit code of its own.
    let is_processes = stage.lab.processes.is_some();
    if is_sent && ((is_early && by_system) || (is_processes && what != Signal::SIGUSR1)) {
        return Ok(ended.code() == 0);
    }
    let allowed: &[i32] = if what == Signal::SIGUSR1 { &[0] } else { &[0, 130] };
    Ok(ended.check(allowed)? == 0)
}

/// SIGUSR1 is for a rank: `mpirun` passes it on to all.
fn tell(running: &Running, what: Signal) {
    let ranks = processes::children(running.id());
    if what == Signal::SIGUSR1
        && let Some(rank) = ranks.first()
    {
        return send(*rank, what);
    }
    send(running.id(), what);
}

fn hangup_is_ignored(stage: &mut Stage<'_>) -> Result<(), Failure> {
    let call = stage.command(&[]);
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]);
    command.arg(call.get_program()).args(call.get_args());
    clean(&mut command, &stage.folder);
    let mut running = stage.start(command)?;
    let moment = stage.moment()?;
    // The shell needs a moment to ignore it.
    if running.lasts(moment.max(std::time::Duration::from_millis(50)))? {
        stage.note(&format!("  SIGHUP, which is ignored, after {moment:?}"));
        send(running.id(), Signal::SIGHUP);
    }
    stage.end(running)?.check(&[0])?;
    stage.check(Expect::SAME)
}
