//! Changed configurations: each is refused or runs, with an exit code that is documented.

use std::fs;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::Good;
use crate::faults::failure::{Failure, broken};
use crate::faults::lab::clean;
use crate::faults::mutation::change_toml;
use crate::faults::process::send;
use crate::faults::stage::Stage;

/// Configurations of a case.
const TRIES: usize = 10;
/// Address space of one, in KiB: far above what a model of this size takes.
const MEMORY: &str = "16000000";
/// How long one may train before it is asked to end.
const LONG_ENOUGH: Duration = Duration::from_secs(2);
const DOCUMENTED: [i32; 7] = [0, 2, 3, 4, 5, 6, 130];

pub(super) fn run(stage: &mut Stage<'_>) -> Result<Good, Failure> {
    for nth in 0..TRIES {
        let mut text = stage.toml();
        let more = u64::from(stage.dice.chance(25));
        for _ in 0..=more {
            let (changed, what) = change_toml(&mut stage.dice, &text);
            stage.note(&format!("  {what}"));
            text = changed;
        }
        let name = format!("changed-{nth}.toml");
        fs::write(stage.folder.join(&name), text).map_err(broken(&name))?;
        let plan: &[&str] = if stage.dice.chance(40) { &["--cfg"] } else { &[] };
        let arguments = [&["--config", &name][..], plan].concat();
        let call = stage.lab.command(&stage.folder, stage.lab.processes, &arguments);
        // What is absurd must not take the memory of this machine.
        let mut shell = Command::new("sh");
        shell.args(["-c", "ulimit -v \"$0\"; exec \"$@\"", MEMORY]);
        shell.arg(call.get_program()).args(call.get_args());
        clean(&mut shell, &stage.folder);
        let mut running = stage.start(shell)?;
        let is_long = running.lasts(LONG_ENOUGH)?;
        if is_long {
            send(running.id(), Signal::SIGTERM);
        }
        let ended = stage.end(running)?;
        stage.settle()?;
        // `mpirun` answers a wish to end with an exit code of its own.
        if !(is_long && stage.lab.processes.is_some()) {
            ended.check(&DOCUMENTED)?;
        }
        stage.check_logs()?;
    }
    Ok(Good::Completed)
}
