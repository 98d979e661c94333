//! Another mesh or another batch after an interrupted start: every step has its row, and a mesh
//! changes the numbers only by rounding.

use nix::sys::signal::Signal;

use super::Good;
use crate::faults::failure::Failure;
use crate::faults::process::send;
use crate::faults::record::Numbers;
use crate::faults::setup::MESHES;
use crate::faults::stage::{Expect, Stage};

/// How far a loss may be from that of another mesh after a few steps, as a part of it.
const ROUNDING: f64 = 1e-3;

pub(super) fn run(stage: &mut Stage<'_>) -> Result<Good, Failure> {
    let mut running = stage.start(stage.command(&[]))?;
    let moment = stage.moment()?;
    if running.lasts(moment)? {
        stage.note(&format!("  SIGTERM after {moment:?}"));
        send(running.id(), Signal::SIGTERM);
    }
    stage.end(running)?;
    stage.settle()?;
    let reference = stage.reference()?;
    let numbers = if stage.dice.chance(70) {
        let ranks = stage.setup.mesh.ranks;
        let is_possible = |ranks_there| stage.lab.processes.is_none() || ranks_there == ranks;
        let others: Vec<_> = MESHES.into_iter().filter(|mesh| is_possible(mesh.ranks)).collect();
        stage.setup.mesh = stage.dice.pick(&others);
        Numbers::Near(ROUNDING)
    } else {
        stage.setup.accumulation = 1;
        Numbers::Any
    };
    let mut toml = stage.toml();
    if numbers == Numbers::Any {
        let batch = stage.dice.pick(&[4, 16]);
        toml = toml.replace("global_batch_size = 8", &format!("global_batch_size = {batch}"));
    }
    std::fs::write(stage.folder.join("run.toml"), toml)
        .map_err(crate::faults::failure::broken("run.toml"))?;
    stage.note(&format!("  now {}", stage.setup.describe()));
    let running = stage.start(stage.command(&[]))?;
    stage.end(running)?.check(&[0])?;
    stage.check_rows(&reference.rows, Expect { numbers, spared: 0 })?;
    Ok(Good::Completed)
}
