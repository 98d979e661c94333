//! Starting the program, waiting for it with a limit, signals.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

use super::failure::{Failure, Fault, broken};
use super::processes;

/// Pause between two looks at a process.
const LOOK: Duration = Duration::from_millis(2);

/// What no output may hold, in any letter case.
const PANIC_TEXTS: [&str; 7] = [
    "panicked",
    "rust_backtrace",
    "internal error",
    "capacity overflow",
    "stack overflow",
    "memory allocation of",
    "assertion failed",
];

/// A program that runs.
pub(super) struct Running {
    pub(super) child: Child,
    output: PathBuf,
}

/// A program that has ended.
#[derive(Debug)]
pub(super) struct Ended {
    status: ExitStatus,
    /// What it printed into its file.
    pub(super) shown: String,
}

impl Running {
    /// Starts a program. Streams that the caller has not set go to the file `output`.
    pub(super) fn start(
        mut command: Command,
        output: &Path,
        streams: Streams,
    ) -> Result<Self, Failure> {
        let file = File::create(output).map_err(broken(output.display()))?;
        let both = file.try_clone().map_err(broken(output.display()))?;
        let Streams { stdin, stdout, stderr } = streams;
        command.stdin(stdin.unwrap_or_else(Stdio::null));
        command.stdout(stdout.unwrap_or_else(|| file.into()));
        command.stderr(stderr.unwrap_or_else(|| both.into()));
        let child = command.spawn().map_err(broken(format!("cannot start {command:?}")))?;
        Ok(Self { child, output: output.to_owned() })
    }

    /// Returns the process.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a time, or until the program ends; returns whether it still runs.
    pub(super) fn lasts(&mut self, time: Duration) -> Result<bool, Failure> {
        let begun = Instant::now();
        loop {
            if self.child.try_wait().map_err(broken("wait"))?.is_some() {
                return Ok(false);
            }
            let left = time.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Ok(true);
            }
            sleep(left.min(LOOK));
        }
    }

    /// Waits for the end. A program that takes longer than the limit is killed with all it started,
    /// and where its threads were is written beside its output.
    pub(super) fn end(mut self, limit: Duration) -> Result<Ended, Failure> {
        if self.lasts(limit)? {
            let all = processes::descendants(self.id());
            let places: String = all.iter().map(|id| processes::threads(*id)).collect();
            let report = self.output.with_extension("hang.txt");
            let _ = fs::write(&report, places);
            for id in all {
                send(id, Signal::SIGKILL);
            }
            let _ = self.child.wait();
            let text =
                format!("no end within {} s; threads in {}", limit.as_secs(), report.display());
            return Err(Fault::Hang.with(text));
        }
        let status = self.child.wait().map_err(broken("wait"))?;
        let ended = Ended { status, shown: read(&self.output).map_err(broken("output"))? };
        ended.check_text()?;
        Ok(ended)
    }
}

/// Streams that do not go to the file of a program's output.
#[derive(Default)]
pub(super) struct Streams {
    /// Nothing, if it is not set.
    pub(super) stdin: Option<Stdio>,
    pub(super) stdout: Option<Stdio>,
    pub(super) stderr: Option<Stdio>,
}

impl Ended {
    /// Returns the exit code, -1 for a signal.
    pub(super) fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }

    /// Returns whether a signal ended the program.
    pub(super) fn is_by(&self, signal: Signal) -> bool {
        self.status.signal() == Some(signal as i32)
    }

    /// Fails unless the exit code is one of `allowed`.
    pub(super) fn check(&self, allowed: &[i32]) -> Result<i32, Failure> {
        if allowed.contains(&self.code()) {
            return Ok(self.code());
        }
        let fault = match (self.status.code(), self.status.signal()) {
            (Some(101 | 134 | 139), _) | (_, Some(4 | 6 | 7 | 8 | 11)) => Fault::Panic,
            _ => Fault::ExitCode,
        };
        Err(fault.with(format!("{}, allowed {allowed:?}: {}", self.status, self.tail())))
    }

    /// Fails where the output speaks of a panic.
    fn check_text(&self) -> Result<(), Failure> {
        check_text(&self.shown, "output")
    }

    /// Returns the last lines of the output, on one.
    pub(super) fn tail(&self) -> String {
        let lines: Vec<&str> = self.shown.lines().map(str::trim).collect();
        lines[lines.len().saturating_sub(4)..].join(" | ")
    }
}

/// Fails where a text speaks of a panic.
pub(super) fn check_text(text: &str, of: &str) -> Result<(), Failure> {
    let lower = text.to_lowercase();
    match PANIC_TEXTS.iter().find_map(|word| lower.find(word)) {
        Some(at) => {
            let line = lower[..at].rfind('\n').map_or(0, |end| end + 1);
            let shown: String = lower[line..].chars().take(300).collect();
            Err(Fault::Panic.with(format!("{of}: {}", shown.replace('\n', " | "))))
        }
        None => Ok(()),
    }
}

/// Reads a file that need not be text.
pub(super) fn read(path: &Path) -> io::Result<String> {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// Sends a signal; a process that has ended hears nothing.
pub(super) fn send(process: u32, what: Signal) {
    if let Ok(id) = i32::try_from(process) {
        let _ = signal::kill(Pid::from_raw(id), what);
    }
}

/// Adds a line to a file.
pub(super) fn note(path: &Path, line: &str) {
    use io::Write;

    if let Ok(mut file) = OpenOptions::new().append(true).create(true).open(path) {
        let _ = writeln!(file, "{line}");
    }
}
