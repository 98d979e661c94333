//! SIGKILL at random moments, a start after each: the last one gives the undisturbed run.

use super::Good;
use crate::faults::failure::Failure;
use crate::faults::stage::{Expect, Stage};

pub(super) fn run(stage: &mut Stage<'_>) -> Result<Good, Failure> {
    for _ in 0..=stage.dice.below(4) {
        let running = stage.start(stage.command(&[]))?;
        if !stage.kill(running)? {
            break;
        }
    }
    stage.complete(&[], Expect::SAME)?;
    Ok(Good::Completed)
}
