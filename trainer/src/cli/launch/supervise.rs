//! Watching over a run that is one child process or several: one that hangs is ended, one that failed
//! is started again, and a wish to end is passed on.

use std::io::{self, PipeWriter, Read, Write};
use std::net::TcpListener;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::command::StartLine;
use super::lifeline;
use super::outcome::Outcome;
use super::signal::{Tell, lead_a_group, signal_of, tell};
use crate::callbacks::StandardStream;
use crate::cli::signals::set_flags;
use crate::cli::{Exit, Failure, output};
use crate::train::Interrupt;

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

/// Runs a command until it ends for good and returns the exit code to leave with. A signal ends it,
/// and so does the supervisor of this one: whoever asks, asks through `wishes`.
///
/// # Errors
///
/// The command cannot be started, or signals cannot be listened to.
pub(super) fn supervise(
    line: &StartLine,
    policy: &Policy,
    wishes: &Interrupt,
) -> Result<u8, Failure> {
    set_flags(wishes).map_err(|error| Failure::new(&error, Exit::Environment))?;
    let mut delay = policy.restart_delay;
    let mut restarts = 0;
    loop {
        let line = if restarts == 0 { line.clone() } else { line.with(&CONTINUE) };
        let outcome = watch(&line, policy.idle_timeout, wishes)?;
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
            if wishes.is_requested() {
                return Ok(Exit::Interrupted as u8);
            }
            thread::sleep(LOOK);
        }
        delay = (delay * 2).min(LONGEST_DELAY);
    }
}

/// Runs a command once, as one process or as the ranks of a world.
fn watch(
    line: &StartLine,
    idle_timeout: Option<Duration>,
    wishes: &Interrupt,
) -> Result<Outcome, Failure> {
    let mut run = Run::start(line, idle_timeout.is_some())?;
    let output = Output::follow(&mut run.children)?;
    let (mut is_leaving, mut was_idle) = (false, false);
    while run.look(is_leaving)? {
        if wishes.take_save() {
            run.tell(Tell::Save);
        }
        if wishes.take_end() {
            is_leaving = true;
            run.tell(Tell::End);
        }
        if !was_idle && idle_timeout.is_some_and(|limit| output.idle() > limit) {
            was_idle = true;
            note("no output for too long: ending the run");
            run.end();
        }
        thread::sleep(LOOK);
    }
    output.finish();
    Ok(outcome(run.status, was_idle, is_leaving))
}

/// The processes of a run.
struct Run {
    children: Vec<Child>,
    /// What the children learn the end of this process by.
    lifelines: Vec<PipeWriter>,
    has_ended: Vec<bool>,
    /// How the first that failed ended, or else the last.
    status: ExitStatus,
    has_failed: bool,
    /// When those that are left are killed.
    dies_at: Option<Instant>,
}

impl Run {
    fn start(line: &StartLine, is_followed: bool) -> Result<Self, Failure> {
        let port = line.processes.map_or(Ok(0), |_| free_port())?;
        let mut run = Self {
            children: Vec::new(),
            lifelines: Vec::new(),
            has_ended: Vec::new(),
            status: ExitStatus::default(),
            has_failed: false,
            dies_at: None,
        };
        for rank in 0..line.processes.unwrap_or(1) {
            match start(line, rank, port, is_followed) {
                Ok((child, lifeline)) => {
                    run.children.push(child);
                    run.lifelines.push(lifeline);
                    run.has_ended.push(false);
                }
                Err(failure) => {
                    run.tell(Tell::Die);
                    return Err(failure);
                }
            }
        }
        Ok(run)
    }

    /// Returns false once all have ended. The first that fails ends the others, unless they are on
    /// their way out.
    fn look(&mut self, are_leaving: bool) -> Result<bool, Failure> {
        for rank in 0..self.children.len() {
            if self.has_ended[rank] {
                continue;
            }
            let looked = self.children[rank].try_wait();
            let looked = looked.map_err(|error| Failure::new(&error, Exit::Environment))?;
            let Some(status) = looked else { continue };
            self.has_ended[rank] = true;
            if self.has_failed {
                continue;
            }
            self.status = status;
            self.has_failed = !status.success();
            let has_others = self.has_ended.contains(&false);
            if self.has_failed && has_others && !are_leaving {
                let what = outcome(status, false, false).describe();
                note(&format!("rank {rank}: {}; ending the others", what.replace("the run", "it")));
                self.end();
            }
        }
        if self.dies_at.is_some_and(|time| Instant::now() > time) {
            self.dies_at = Some(Instant::now() + GRACE);
            self.tell(Tell::Die);
        }
        Ok(self.has_ended.contains(&false))
    }

    /// Asks all to end, and kills them when they do not.
    fn end(&mut self) {
        self.dies_at.get_or_insert(Instant::now() + GRACE);
        self.tell(Tell::End);
    }

    fn tell(&mut self, how: Tell) {
        let ended = self.has_ended.iter();
        for (child, _) in self.children.iter_mut().zip(ended).filter(|(_, has_ended)| !**has_ended)
        {
            tell(child, how);
        }
    }
}

/// Finds a port on which nobody listens.
fn free_port() -> Result<u16, Failure> {
    let found = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    found.map(|address| address.port()).map_err(|error| Failure::new(&error, Exit::Environment))
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

fn start(
    line: &StartLine,
    rank: usize,
    port: u16,
    is_followed: bool,
) -> Result<(Child, PipeWriter), Failure> {
    let (program, arguments) = line.words.split_first().expect("a command has a program");
    let (end, lifeline) =
        lifeline::new().map_err(|error| Failure::new(&error, Exit::Environment))?;
    let mut command = Command::new(program);
    command.args(arguments).arg(lifeline::ARGUMENT).stdin(end);
    for (name, value) in &line.variables {
        if crate::world::env::variable(name).is_none() {
            command.env(name, value);
        }
    }
    command.envs(line.identity(rank, port));
    if is_followed {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
    }
    lead_a_group(&mut command);
    let started = command.spawn().map_err(|error| Failure {
        text: format!(
            "error: cannot start `{}`: {error}\n  help: `--dry-run` prints the whole command; `mpiexec` comes with Open MPI or MPICH, `srun` with SLURM",
            program.to_string_lossy()
        ),
        exit: Exit::Environment,
    });
    started.map(|child| (child, lifeline))
}

/// Passes on what a child prints and remembers when.
struct Output {
    begun: Instant,
    /// Milliseconds from `begun` to the last word.
    last: Arc<AtomicU64>,
    copies: Vec<JoinHandle<()>>,
}

impl Output {
    /// Follows the streams of children that are pipes.
    fn follow(children: &mut [Child]) -> Result<Self, Failure> {
        let environment = |error: io::Error| Failure::new(&error, Exit::Environment);
        let (begun, last) = (Instant::now(), Arc::new(AtomicU64::new(0)));
        let copy = |from: Option<Box<dyn Read + Send>>, to: Box<dyn Write + Send>| {
            let (from, last) = (from?, Arc::clone(&last));
            Some(thread::spawn(move || copy(from, to, begun, &last)))
        };
        let mut copies = Vec::new();
        for child in children {
            let stdout = child.stdout.take().map(|from| Box::new(from) as Box<dyn Read + Send>);
            let stderr = child.stderr.take().map(|from| Box::new(from) as Box<dyn Read + Send>);
            // The child is read from, and so counts as alive, whether or not anyone reads from here.
            let console = StandardStream::out().map_err(environment)?;
            copies.extend(copy(stdout, Box::new(console)));
            let console = StandardStream::err().map_err(environment)?;
            copies.extend(copy(stderr, Box::new(console)));
        }
        Ok(Self { begun, last, copies })
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
fn note(text: &str) {
    output::note(&format!("launch: {text}"));
}

#[cfg(all(test, unix))]
mod tests {
    use std::ffi::OsString;
    use std::fs;

    use super::*;

    /// Far above what any of these runs takes.
    const PROMPT: Duration = Duration::from_mins(1);

    /// Processes of a shell that runs a script.
    fn line(processes: usize, script: &str) -> StartLine {
        let words = ["-c", script].map(OsString::from).to_vec();
        StartLine::local(processes, 2, OsString::from("sh"), words)
    }

    fn run(line: &StartLine, idle_timeout: Option<Duration>) -> Outcome {
        let begun = Instant::now();
        let outcome = watch(line, idle_timeout, &Interrupt::default())
            .unwrap_or_else(|failure| panic!("the processes start: {}", failure.text));
        assert!(begun.elapsed() < PROMPT, "nobody is waited for in vain");
        outcome
    }

    #[test]
    fn each_process_knows_its_rank_and_where_all_meet() {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path();
        let script = format!(
            "echo $RANK $LOCAL_RANK $WORLD_SIZE $LOCAL_WORLD_SIZE $MASTER_ADDR $DREAM_TRAIN_LAUNCHER \
             ${{NCCL_MULTI_RANK_GPU_ENABLE:-no}} > {0}/$RANK; echo $MASTER_PORT > {0}/port.$RANK",
            folder.display()
        );
        let read = |name: &str| fs::read_to_string(folder.join(name)).expect("it was written");
        assert_eq!(run(&line(3, &script), None), Outcome::Code(0));
        for rank in 0..3 {
            // Two GPUs for three ranks.
            let expected = format!("{rank} {rank} 3 3 127.0.0.1 dream-train 1\n");
            assert_eq!(read(&rank.to_string()), expected);
            assert_eq!(read(&format!("port.{rank}")), read("port.0"));
        }
        assert_eq!(run(&line(2, &script), None), Outcome::Code(0));
        assert_eq!(read("1"), "1 1 2 2 127.0.0.1 dream-train no\n");
    }

    #[test]
    fn the_first_that_fails_ends_the_others_and_gives_the_exit_code() {
        let failing = "if [ $RANK = 1 ]; then exit 6; fi; exec sleep 600";
        assert_eq!(run(&line(4, failing), None), Outcome::Code(6));
        let killed = "if [ $RANK = 2 ]; then kill -9 $$; fi; exec sleep 600";
        assert_eq!(run(&line(3, killed), None), Outcome::Signal(9));
    }

    #[test]
    fn those_that_do_not_end_are_killed() {
        let deaf = "trap '' TERM; if [ $RANK = 0 ]; then exit 3; fi; while :; do sleep 1; done";
        assert_eq!(run(&line(2, deaf), None), Outcome::Code(3));
    }

    #[test]
    fn the_output_of_any_process_counts() {
        let talking = "if [ $RANK = 0 ]; then for i in 1 2 3 4 5 6; do echo; sleep 0.2; done; fi";
        assert_eq!(run(&line(2, talking), Some(Duration::from_secs(1))), Outcome::Code(0));
        let silent = "exec sleep 600";
        assert_eq!(run(&line(2, silent), Some(Duration::from_millis(300))), Outcome::Idle);
    }

    #[test]
    fn a_wish_to_save_reaches_all_and_ends_nobody() {
        let folder = tempfile::tempdir().expect("a folder");
        let script = format!(
            "trap 'echo >> {}/$RANK' USR1; for i in 1 2 3 4 5 6 7 8 9 10; do sleep 0.1; done",
            folder.path().display()
        );
        let wishes = Interrupt::default();
        let outcome = thread::scope(|scope| {
            let watched = scope.spawn(|| watch(&line(2, &script), None, &wishes).ok());
            thread::sleep(Duration::from_millis(500));
            wishes.request_save();
            watched.join().expect("it does not panic")
        });
        assert_eq!(outcome, Some(Outcome::Code(0)));
        for rank in ["0", "1"] {
            let said = fs::read_to_string(folder.path().join(rank));
            assert_eq!(said.expect("it was told"), "\n");
        }
    }

    #[test]
    fn a_wish_to_end_reaches_all_and_lets_them_finish() {
        let script = "trap 'sleep 0.3; exit 130' TERM; while :; do sleep 0.05; done";
        let wishes = Interrupt::default();
        let outcome = thread::scope(|scope| {
            let watched = scope.spawn(|| watch(&line(2, script), None, &wishes).ok());
            thread::sleep(Duration::from_millis(500));
            wishes.request();
            watched.join().expect("it does not panic")
        });
        assert_eq!(outcome, Some(Outcome::Interrupted(130)));
    }
}
