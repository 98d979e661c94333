//! Watching over a run that is a child process: one that hangs is ended, one that failed is started
//! again, and a wish to end is passed on.

use std::io::{self, Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::command::StartLine;
use super::outcome::Outcome;
use super::signal::{Tell, lead_a_group, signal_of, tell};
use crate::cli::{Exit, Failure};

/// Pause between two looks at the child.
const LOOK: Duration = Duration::from_millis(20);
/// How long a run that hangs may take to end before it is killed.
const GRACE: Duration = Duration::from_secs(5);
/// Longest pause before a restart.
const LONGEST_DELAY: Duration = Duration::from_mins(1);
/// What a restart adds: it continues from the newest checkpoint, whatever the first start was told.
const CONTINUE: [&str; 2] = ["--set", "checkpoint.resume=auto"];

/// When a run is ended and when it is started again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Policy {
    pub(super) max_restarts: u32,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) restart_delay: Duration,
}

/// Runs a command until it ends for good and returns the exit code to leave with.
///
/// # Errors
///
/// The command cannot be started, or signals cannot be listened to.
pub(super) fn supervise(line: &StartLine, policy: &Policy) -> Result<u8, Failure> {
    let wishes = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&wishes);
    let handler = move || {
        counted.fetch_add(1, Ordering::Relaxed);
    };
    ctrlc::set_handler(handler).map_err(|error| Failure::new(&error, Exit::Environment))?;
    let mut delay = policy.restart_delay;
    let mut restarts = 0;
    loop {
        let line = if restarts == 0 { line.clone() } else { line.with(&CONTINUE) };
        let outcome = watch(&line, policy.idle_timeout, &wishes)?;
        if !outcome.may_heal() || restarts == policy.max_restarts {
            if outcome.may_heal() {
                note(&outcome.describe());
            }
            return Ok(outcome.code());
        }
        restarts += 1;
        let (what, of) = (outcome.describe(), policy.max_restarts);
        note(&format!("{what}; restart {restarts} of {of} in {} s", delay.as_secs()));
        let begun = Instant::now();
        while begun.elapsed() < delay {
            if wishes.load(Ordering::Relaxed) > 0 {
                return Ok(Exit::Interrupted as u8);
            }
            thread::sleep(LOOK);
        }
        delay = (delay * 2).min(LONGEST_DELAY);
    }
}

/// Runs a command once.
fn watch(
    line: &StartLine,
    idle_timeout: Option<Duration>,
    wishes: &AtomicU32,
) -> Result<Outcome, Failure> {
    let mut child = start(line, idle_timeout.is_some())?;
    let output = Output::follow(&mut child);
    let mut passed_on = 0;
    let mut dies_at: Option<Instant> = None;
    let status = loop {
        let looked = child.try_wait();
        if let Some(status) = looked.map_err(|error| Failure::new(&error, Exit::Environment))? {
            break status;
        }
        let wished = wishes.load(Ordering::Relaxed);
        if wished > passed_on {
            passed_on = wished;
            tell(&mut child, Tell::End);
        }
        if dies_at.is_none() && idle_timeout.is_some_and(|limit| output.idle() > limit) {
            dies_at = Some(Instant::now() + GRACE);
            note("no output for too long: ending the run");
            tell(&mut child, Tell::End);
        }
        if dies_at.is_some_and(|time| Instant::now() > time) {
            dies_at = Some(Instant::now() + GRACE);
            tell(&mut child, Tell::Die);
        }
        thread::sleep(LOOK);
    };
    output.finish();
    Ok(outcome(status, dies_at.is_some(), passed_on > 0))
}

fn outcome(status: ExitStatus, was_idle: bool, was_interrupted: bool) -> Outcome {
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    let found = match (code, signal_of(status)) {
        (Some(code), _) => Outcome::Code(code),
        (None, Some(signal)) => Outcome::Signal(signal),
        (None, None) => Outcome::Code(Exit::Unexpected as u8),
    };
    match (was_idle, was_interrupted) {
        (true, _) => Outcome::Idle,
        (_, true) => Outcome::Interrupted(found.code()),
        _ => found,
    }
}

fn start(line: &StartLine, is_followed: bool) -> Result<Child, Failure> {
    let (program, arguments) = line.words.split_first().expect("a command has a program");
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    for (name, value) in &line.variables {
        if crate::world::env::variable(name).is_none() {
            command.env(name, value);
        }
    }
    if is_followed {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
    }
    lead_a_group(&mut command);
    command.spawn().map_err(|error| Failure {
        text: format!(
            "error: cannot start `{}`: {error}\n  help: `--dry-run` prints the whole command; `mpiexec` comes with Open MPI or MPICH, `srun` with SLURM",
            program.to_string_lossy()
        ),
        exit: Exit::Environment,
    })
}

/// Passes on what a child prints and remembers when.
struct Output {
    begun: Instant,
    /// Milliseconds from `begun` to the last word.
    last: Arc<AtomicU64>,
    copies: Vec<JoinHandle<()>>,
}

impl Output {
    /// Follows the streams of a child that are pipes.
    fn follow(child: &mut Child) -> Self {
        let (begun, last) = (Instant::now(), Arc::new(AtomicU64::new(0)));
        let stdout = child.stdout.take().map(|from| Box::new(from) as Box<dyn Read + Send>);
        let stderr = child.stderr.take().map(|from| Box::new(from) as Box<dyn Read + Send>);
        let copy = |from: Option<Box<dyn Read + Send>>, to: Box<dyn Write + Send>| {
            let (from, last) = (from?, Arc::clone(&last));
            Some(thread::spawn(move || copy(from, to, begun, &last)))
        };
        let copies = [copy(stdout, Box::new(io::stdout())), copy(stderr, Box::new(io::stderr()))];
        Self { begun, copies: copies.into_iter().flatten().collect(), last }
    }

    /// Returns how long nothing has been printed.
    fn idle(&self) -> Duration {
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
        self.begun.elapsed().saturating_sub(last)
    }

    fn finish(self) {
        for copy in self.copies {
            // A copy catches nothing and has nothing to say.
            let _ = copy.join();
        }
    }
}

fn copy(mut from: impl Read, mut to: impl Write, begun: Instant, last: &AtomicU64) {
    let mut buffer = [0; 8192];
    while let Ok(count) = from.read(&mut buffer) {
        if count == 0 {
            break;
        }
        last.store(begun.elapsed().as_millis() as u64, Ordering::Relaxed);
        // A reader that went away does not stop the run.
        let _ = to.write_all(&buffer[..count]).and_then(|()| to.flush());
    }
}

/// Says what the supervisor does, apart from what the run prints.
#[expect(clippy::print_stderr, reason = "the run owns the standard output")]
fn note(text: &str) {
    eprintln!("launch: {text}");
}
