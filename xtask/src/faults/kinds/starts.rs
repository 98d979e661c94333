//! Several starts in one folder within a moment: one trains, the others are refused and name it.

use std::time::Duration;

use super::Good;
use crate::faults::failure::{Failure, Fault};
use crate::faults::process::{Ended, Running};
use crate::faults::stage::{Expect, Stage};

/// Longest time between two starts.
const APART: Duration = Duration::from_millis(600);

pub(super) fn run(stage: &mut Stage<'_>) -> Result<Good, Failure> {
    let mut started = vec![stage.start(stage.command(&[]))?];
    for _ in 0..=stage.dice.below(2) {
        let apart = stage.dice.time(APART);
        std::thread::sleep(apart);
        started.push(stage.start(stage.command(&[]))?);
    }
    let ids: Vec<u32> = started.iter().map(Running::id).collect();
    let ended: Vec<Ended> =
        started.into_iter().map(|run: Running| stage.end(run)).collect::<Result<_, _>>()?;
    let mut winners = 0;
    for (nth, ended) in ended.iter().enumerate() {
        if ended.check(&[0, 3])? == 0 {
            winners += 1;
            continue;
        }
        let mut others = ids.iter().enumerate().filter(|(other, _)| *other != nth);
        // A rank that `mpirun` starts has a number that is not known here.
        let is_named = ended.shown.contains("in use by process ")
            && (stage.lab.processes.is_some()
                || others.any(|(_, id)| ended.shown.contains(&format!("process {id} "))));
        if !is_named {
            let text = format!("the refused start names no owner: {}", ended.tail());
            return Err(Fault::Untold.with(text));
        }
    }
    if winners == 0 {
        return Err(Fault::ExitCode.with("every start was refused"));
    }
    stage.check(Expect::SAME)?;
    stage.complete(&[], Expect::SAME)?;
    Ok(Good::Completed)
}
