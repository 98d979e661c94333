//! A disk that is full, or files that cannot grow: the run says so and ends, or goes on and says what
//! it could not write; with room again the next start ends like the undisturbed run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Good;
use crate::faults::failure::{Failure, Fault, broken};
use crate::faults::lab::clean;
use crate::faults::process::Ended;
use crate::faults::record::{Numbers, saved_steps};
use crate::faults::stage::{Expect, Stage};

pub(super) fn run(stage: &mut Stage<'_>) -> Result<Good, Failure> {
    // A limit would hold for the files of `mpirun` too.
    if stage.lab.processes.is_none() && stage.dice.chance(50) {
        let blocks = stage.dice.within(0..800).to_string();
        let ended = limited(stage, &blocks)?;
        return finish(stage, &ended);
    }
    let kilobytes = stage.dice.within(16..2500);
    let place = stage.folder.join("out");
    fs::create_dir_all(&place).map_err(broken(place.display()))?;
    let Some(disk) = Disk::mount(&place, kilobytes) else { return Ok(Good::Skipped) };
    stage.note(&format!("  a disk of {kilobytes} KiB"));
    let running = stage.start(stage.command(&[]))?;
    let ended = stage.end(running)?;
    stage.settle()?;
    disk.grow()?;
    finish(stage, &ended)
}

/// Runs with a limit on the size of each file, in blocks of 512 bytes.
fn limited(stage: &mut Stage<'_>, blocks: &str) -> Result<Ended, Failure> {
    let call = stage.command(&[]);
    // Ignored, so that a write fails as on a full disk instead of ending the process.
    let script = "trap '' XFSZ; ulimit -f \"$0\"; exec \"$@\"";
    let mut shell = Command::new("sh");
    shell.args(["-c", script, blocks]).arg(call.get_program()).args(call.get_args());
    clean(&mut shell, &stage.folder);
    let running = stage.start(shell)?;
    let ended = stage.end(running)?;
    stage.settle()?;
    Ok(ended)
}

fn finish(stage: &mut Stage<'_>, full: &Ended) -> Result<Good, Failure> {
    full.check(&[0, 3, 5])?;
    stage.check_logs()?;
    let newest = saved_steps(&stage.run_folder()).last().copied().unwrap_or(0);
    let is_told = full.shown.contains("metrics.jsonl") || full.shown.contains("jsonl");
    let expect = Expect { numbers: Numbers::Same, spared: if is_told { newest } else { 0 } };
    let running = stage.start(stage.command(&[]))?;
    stage.end(running)?.check(&[0])?;
    stage.check(expect).map_err(|failure| match failure.fault {
        Fault::Rows => Fault::Untold.with(format!("after a full disk: {}", failure.text)),
        _ => failure,
    })?;
    Ok(Good::Completed)
}

/// A small file system in memory, gone with this value.
struct Disk(PathBuf);

impl Disk {
    /// Mounts it, where that is allowed.
    fn mount(place: &Path, kilobytes: u64) -> Option<Self> {
        let size = format!("size={kilobytes}k");
        let arguments = ["-t", "tmpfs", "-o", &size, "tmpfs"];
        let done = Command::new("mount").args(arguments).arg(place).output().ok()?;
        done.status.success().then(|| Self(place.to_owned()))
    }

    fn grow(&self) -> Result<(), Failure> {
        let arguments = ["-o", "remount,size=200m"];
        let status = Command::new("mount").args(arguments).arg(&self.0).status();
        if status.map_err(broken("mount"))?.success() {
            return Ok(());
        }
        Err(Fault::Campaign.with("the disk cannot be made larger"))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What is left of a failed case is kept outside of the disk.
        let kept = self.0.with_file_name("kept");
        let _ = Command::new("cp").arg("-r").arg(&self.0).arg(&kept).status();
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
