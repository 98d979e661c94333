//! A run folder that is removed while the run writes into it: the run says so and does not end as if
//! all were well.

use std::fs;

use super::Good;
use crate::faults::failure::{Failure, Fault};
use crate::faults::record::Rows;
use crate::faults::stage::{Expect, Stage};

pub(super) fn run(stage: &mut Stage<'_>) -> Result<Good, Failure> {
    let mut running = stage.start(stage.command(&[]))?;
    let moment = stage.moment()?;
    running.lasts(moment)?;
    stage.note(&format!("  the run folder is removed after {moment:?}"));
    let _ = fs::remove_dir_all(stage.run_folder());
    let was_over = !running.lasts(std::time::Duration::ZERO)?;
    let ended = stage.end(running)?;
    stage.settle()?;
    let rows = Rows::read(&stage.run_folder()).map_or(0, |rows| rows.len());
    let is_whole = rows == stage.reference()?.rows.len();
    if ended.check(&[0, 3, 5])? == 0 && !is_whole && !was_over {
        let text = format!("the run folder is gone and the run ended with 0: {}", ended.tail());
        return Err(Fault::Untold.with(text));
    }
    stage.complete(&[], Expect::SAME)?;
    Ok(Good::Completed)
}
