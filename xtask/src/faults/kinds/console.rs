//! A console that is full, closed, paused or gone: training goes on to its end.

use std::io::{self, BufRead, BufReader, PipeReader, Write};
use std::process::{Command, Stdio};

use nix::pty::openpty;
use nix::sys::signal::Signal;

use super::Good;
use crate::faults::failure::{Failure, broken};
use crate::faults::lab::clean;
use crate::faults::process::Streams;
use crate::faults::stage::{Expect, Stage};

/// What a stream is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Console {
    /// What the harness reads.
    File,
    /// A disk without room.
    Full,
    /// Nothing: the descriptor is closed.
    Closed,
    /// A pipe whose reader takes a line and leaves.
    Left,
    /// A pipe that nobody reads, with little room.
    Paused,
}

pub(super) fn run(stage: &mut Stage<'_>) -> Result<Good, Failure> {
    if stage.dice.chance(20) {
        terminal_goes(stage)?;
    } else {
        let kinds = [Console::File, Console::Full, Console::Closed, Console::Left, Console::Paused];
        let kinds = [stage.dice.pick(&kinds), stage.dice.pick(&kinds)];
        streams(stage, kinds)?;
    }
    stage.check(Expect::SAME)?;
    Ok(Good::Completed)
}

fn streams(stage: &mut Stage<'_>, kinds: [Console; 2]) -> Result<(), Failure> {
    stage.note(&format!("  standard output {:?}, standard error {:?}", kinds[0], kinds[1]));
    let more: &[&str] = if stage.dice.chance(50) { &["--verbose"] } else { &[] };
    let closed = |kind, number| {
        if kind == Console::Closed { format!(" {number}>&-") } else { String::new() }
    };
    let script = format!("exec \"$0\" \"$@\"{}{}", closed(kinds[0], 1), closed(kinds[1], 2));
    let mut command = Command::new("sh");
    let call = stage.command(more);
    command.args(["-c", &script]).arg(call.get_program()).args(call.get_args());
    clean(&mut command, &stage.folder);
    let (mut readers, mut leaving) = (Vec::new(), Vec::new());
    let mut stream = |kind| -> io::Result<Option<Stdio>> {
        Ok(match kind {
            Console::File | Console::Closed => None,
            Console::Full => Some(std::fs::File::create("/dev/full")?.into()),
            Console::Left => {
                let (reader, writer) = io::pipe()?;
                leaving.push(reader);
                Some(writer.into())
            }
            Console::Paused => {
                let (reader, mut writer) = io::pipe()?;
                // A pipe takes 65,536 bytes.
                writer.write_all("\n".repeat(65_000).as_bytes())?;
                readers.push(reader);
                Some(writer.into())
            }
        })
    };
    let streams = Streams {
        stdin: None,
        stdout: stream(kinds[0]).map_err(broken("standard output"))?,
        stderr: stream(kinds[1]).map_err(broken("standard error"))?,
    };
    let running = stage.start_with(command, streams)?;
    for reader in leaving {
        std::thread::spawn(|| one_line(reader));
    }
    stage.end(running)?.check(&[0])?;
    drop(readers);
    Ok(())
}

fn one_line(reader: PipeReader) {
    let _ = BufReader::new(reader).read_line(&mut String::new());
}

/// A terminal that is closed while the run writes to it: the run gets SIGHUP, or errors of a
/// terminal that is gone.
fn terminal_goes(stage: &mut Stage<'_>) -> Result<(), Failure> {
    let terminal = openpty(None, None).map_err(broken("a terminal"))?;
    let call = stage.command(&[]);
    let mut command = Command::new("setsid");
    if stage.dice.chance(50) {
        // The controlling terminal of a session: its end is a SIGHUP.
        command.arg("--ctty");
    }
    command.arg(call.get_program()).args(call.get_args());
    clean(&mut command, &stage.folder);
    let slave = |end: &std::os::fd::OwnedFd| end.try_clone().map_err(broken("a terminal"));
    let streams = Streams {
        stdin: Some(slave(&terminal.slave)?.into()),
        stdout: Some(slave(&terminal.slave)?.into()),
        stderr: Some(slave(&terminal.slave)?.into()),
    };
    let mut running = stage.start_with(command, streams)?;
    let moment = stage.moment()?;
    running.lasts(moment)?;
    stage.note(&format!("  the terminal is closed after {moment:?}"));
    drop(terminal);
    let ended = stage.end(running)?;
    // Before it listens, a program does what the system does.
    let is_early = ended.is_by(Signal::SIGHUP) && !stage.run_folder().exists();
    if is_early || ended.check(&[0, 130])? != 0 {
        stage.settle()?;
        stage.complete(&[], Expect::SAME)?;
    }
    Ok(())
}
