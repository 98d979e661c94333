//! Cut, changed and removed files between two starts. Damage is noticed, never counts and never
//! blocks: the next start continues from the newest whole checkpoint and ends like the undisturbed run.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;

use super::Good;
use crate::faults::failure::{Failure, Fault, broken};
use crate::faults::mutation::{damage, files};
use crate::faults::process::send;
use crate::faults::record::{Numbers, saved_steps};
use crate::faults::stage::{Expect, Stage};

pub(super) fn run(stage: &mut Stage<'_>) -> Result<Good, Failure> {
    begin(stage)?;
    let run = stage.run_folder();
    let mut spared = 0;
    if stage.dice.chance(15) {
        whole_folder(stage, &run)?;
    }
    for _ in 0..=stage.dice.below(2) {
        let Some(path) = choose(stage, &run) else { break };
        let newest = saved_steps(&run).last().copied().unwrap_or(0);
        let what = damage(&mut stage.dice, &path)?;
        let name = path.strip_prefix(&run).unwrap_or(&path).display();
        stage.note(&format!("  {name}: {what}"));
        // Rows of steps that are not done again are as lost as the file.
        if path.ends_with("metrics.jsonl") {
            spared = newest;
        }
    }
    let running = stage.start(stage.command(&[]))?;
    let ended = stage.end(running)?;
    // Without a whole checkpoint there may be nothing to continue, which has to be said.
    if ended.check(&[0, 5])? == 5 {
        let is_told = ["damage", "whole", "checksum", "manifest", "version"];
        return if is_told.iter().any(|word| ended.shown.contains(word)) {
            stage.note("  refused");
            if newest_is_whole(stage) { blocked(&ended.tail()) } else { Ok(Good::Refused) }
        } else {
            Err(Fault::Untold.with(ended.tail()))
        };
    }
    stage.check(Expect { numbers: Numbers::Same, spared })?;
    Ok(Good::Completed)
}

fn blocked<T>(text: &str) -> Result<T, Failure> {
    Err(Fault::ExitCode.with(format!("damage blocks the run: {text}")))
}

/// Whether a second start would find a checkpoint that nobody touched.
fn newest_is_whole(stage: &Stage<'_>) -> bool {
    let history = fs::read_to_string(stage.folder.join("history.txt")).unwrap_or_default();
    let is_touched = |step: &u64| history.contains(&format!("  checkpoints/step-{step:08}/"));
    saved_steps(&stage.run_folder()).iter().any(|step| !is_touched(step))
}

/// Ends a run somewhere: at its end, by a signal, or by force.
fn begin(stage: &mut Stage<'_>) -> Result<(), Failure> {
    for _ in 0..=stage.dice.below(2) {
        let mut running = stage.start(stage.command(&[]))?;
        match stage.dice.below(3) {
            0 => {
                stage.kill(running)?;
            }
            1 => {
                let moment = stage.moment()?;
                if running.lasts(moment)? {
                    stage.note(&format!("  SIGTERM after {moment:?}"));
                    send(running.id(), Signal::SIGTERM);
                }
                stage.end(running)?;
                stage.settle()?;
            }
            _ => {
                stage.end(running)?.check(&[0])?;
                stage.settle()?;
                break;
            }
        }
    }
    Ok(())
}

/// Removes or empties the newest checkpoint, or leaves what a full disk leaves.
fn whole_folder(stage: &mut Stage<'_>, run: &Path) -> Result<(), Failure> {
    let checkpoints = run.join("checkpoints");
    let Some(step) = saved_steps(run).last().copied() else { return Ok(()) };
    let newest = checkpoints.join(format!("step-{step:08}"));
    let what = match stage.dice.below(3) {
        0 => fs::remove_dir_all(&newest).map(|()| "removed"),
        1 => fs::remove_dir_all(&newest).and_then(|()| fs::create_dir(&newest)).map(|()| "emptied"),
        _ => fs::create_dir(checkpoints.join(format!(".step-{step:08}.partial")))
            .and_then(|()| fs::write(checkpoints.join(".probe-1"), "probe"))
            .map(|()| "beside what a full disk leaves"),
    };
    let what = what.map_err(broken(newest.display()))?;
    stage.note(&format!("  checkpoints/step-{step:08}/: {what}"));
    Ok(())
}

/// Chooses a file, one of the newest checkpoint half of the time.
fn choose(stage: &mut Stage<'_>, run: &Path) -> Option<PathBuf> {
    let newest = saved_steps(run).last().copied();
    let newest = newest.map(|step| run.join("checkpoints").join(format!("step-{step:08}")));
    let of_newest = newest.map(|folder| files(&folder)).unwrap_or_default();
    let all = files(run);
    let among = if stage.dice.chance(50) && !of_newest.is_empty() { of_newest } else { all };
    (!among.is_empty()).then(|| among[stage.dice.below(among.len())].clone())
}
