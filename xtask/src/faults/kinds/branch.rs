//! A start from an earlier step sets the later checkpoints aside and trains the branch, which a kill
//! does not begin anew.

use std::fs;

use super::Good;
use crate::faults::failure::{Failure, Fault};
use crate::faults::record::saved_steps;
use crate::faults::stage::{Expect, Stage};

pub(super) fn run(stage: &mut Stage<'_>) -> Result<Good, Failure> {
    stage.complete(&[], Expect::SAME)?;
    let steps = saved_steps(&stage.run_folder());
    let step = stage.dice.pick(&steps);
    let set = format!("checkpoint.resume_step={step}");
    let branch = ["--set", &set];
    for _ in 0..stage.dice.below(3) {
        let running = stage.start(stage.command(&branch))?;
        if !stage.kill(running)? {
            break;
        }
    }
    stage.complete(&branch, Expect::SAME)?;
    let is_last = steps.last() == Some(&step);
    if !is_last && set_aside(stage) == 0 {
        return Err(Fault::Untold.with("the checkpoints of the old branch are gone"));
    }
    // The branch is whole: the same command has nothing left to do.
    let before = saved_steps(&stage.run_folder());
    stage.complete(&branch, Expect::SAME)?;
    if saved_steps(&stage.run_folder()) != before {
        return Err(Fault::Bits.with("a finished branch was begun again"));
    }
    Ok(Good::Completed)
}

/// Counts what is no checkpoint in use: folders whose name has more than a step.
fn set_aside(stage: &Stage<'_>) -> usize {
    let folder = stage.run_folder().join("checkpoints");
    let names = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let is_step =
        |name: &str| name.strip_prefix("step-").is_some_and(|digits| digits.parse::<u64>().is_ok());
    names.filter(|name| name.contains("step-") && !is_step(name)).count()
}
