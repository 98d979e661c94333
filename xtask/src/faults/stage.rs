//! The folder and the processes of one case, and the checks that all cases share.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::dice::Dice;
use super::failure::{Failure, Fault, broken};
use super::lab::Lab;
use super::process::{self, Ended, Running, Streams, send};
use super::processes;
use super::record::{Numbers, Rows, tensors};
use super::reference::Reference;
use super::setup::{FILE, RUN, Setup};

/// How long a process may outlive what should have ended it.
const LINGER: Duration = Duration::from_secs(15);
/// The same under `mpirun`, which may wait a minute for ranks that it has told to end.
const LINGER_OF_MPI: Duration = Duration::from_secs(75);

/// What a finished run has to look like.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expect {
    pub(super) numbers: Numbers,
    /// Rows up to this step may be missing or differ.
    pub(super) spared: u64,
}

impl Expect {
    /// The rows and the tensors of the undisturbed run.
    pub(super) const SAME: Self = Self { numbers: Numbers::Same, spared: 0 };
}

/// One case.
pub(super) struct Stage<'a> {
    pub(super) lab: &'a Lab,
    pub(super) dice: Dice,
    pub(super) setup: Setup,
    pub(super) folder: PathBuf,
    starts: u32,
}

impl<'a> Stage<'a> {
    /// Makes the folder of a case.
    pub(super) fn new(lab: &'a Lab, dice: Dice, setup: Setup, case: u64) -> Result<Self, Failure> {
        let folder = lab.folder.join(format!("case-{case}"));
        fs::create_dir_all(&folder).map_err(broken(folder.display()))?;
        let stage = Self { lab, dice, setup, folder, starts: 0 };
        fs::write(stage.folder.join(FILE), stage.toml()).map_err(broken(FILE))?;
        stage.note(&stage.setup.describe());
        Ok(stage)
    }

    /// Returns the configuration.
    pub(super) fn toml(&self) -> String {
        self.setup.toml(&self.lab.words())
    }

    /// Writes down what is done, for those who look into the folder of a failed case.
    pub(super) fn note(&self, what: &str) {
        process::note(&self.folder.join("history.txt"), what);
    }

    /// Returns the folder of the run.
    pub(super) fn run_folder(&self) -> PathBuf {
        self.folder.join(RUN)
    }

    /// Returns the undisturbed run.
    pub(super) fn reference(&self) -> Result<Arc<Reference>, Failure> {
        self.lab.references.get(self.lab, &self.toml(), self.setup.steps)
    }

    /// Chooses a moment in the life of a run, or a little after its end.
    pub(super) fn moment(&mut self) -> Result<Duration, Failure> {
        let time = self.reference()?.time;
        // Processes take a second to find each other.
        let more = self.lab.processes.map_or(Duration::ZERO, |_| Duration::from_secs(1));
        Ok(self.dice.time(time.mul_f64(1.1) + more))
    }

    /// Returns the call of the run with further arguments.
    pub(super) fn command(&self, more: &[&str]) -> Command {
        let arguments = [&["--config", FILE], more].concat();
        self.lab.command(&self.folder, self.lab.processes, &arguments)
    }

    /// Starts a program of this case.
    pub(super) fn start(&mut self, command: Command) -> Result<Running, Failure> {
        self.start_with(command, Streams::default())
    }

    /// Starts a program of this case with streams of its own.
    pub(super) fn start_with(
        &mut self,
        command: Command,
        streams: Streams,
    ) -> Result<Running, Failure> {
        self.starts += 1;
        self.note(&format!("start {}: {command:?}", self.starts));
        Running::start(command, &self.folder.join(format!("{}.txt", self.starts)), streams)
    }

    /// Waits for the end of a program of this case.
    pub(super) fn end(&self, running: Running) -> Result<Ended, Failure> {
        let ended = running.end(self.lab.limit)?;
        self.note(&format!("  ended with {}, {}", ended.code(), ended.tail()));
        Ok(ended)
    }

    /// Lets a run live for a random time and kills it, or one of its processes. Returns whether it
    /// was still there.
    pub(super) fn kill(&mut self, mut running: Running) -> Result<bool, Failure> {
        let moment = self.moment()?;
        let lives = running.lasts(moment)?;
        if !lives {
            self.end(running)?.check(&[0])?;
            return Ok(false);
        }
        let victims = processes::descendants(running.id());
        let victim = self.dice.pick(&victims);
        self.note(&format!("  SIGKILL to {victim} of {victims:?} after {moment:?}"));
        send(victim, Signal::SIGKILL);
        let ended = self.end(running)?;
        if ended.code() == 0 && !ended.is_by(Signal::SIGKILL) && !self.rows_are_complete() {
            return Err(Fault::ExitCode.with("a killed run ended with 0 and without its rows"));
        }
        self.settle()?;
        Ok(true)
    }

    fn rows_are_complete(&self) -> bool {
        let reference = self.reference().map(|reference| reference.rows.len());
        let rows = Rows::read(&self.run_folder()).map(|rows| rows.len());
        reference.is_ok_and(|reference| rows.is_ok_and(|rows| rows == reference))
    }

    /// Waits until no process of this case is left.
    pub(super) fn settle(&self) -> Result<(), Failure> {
        let linger = self.lab.processes.map_or(LINGER, |_| LINGER_OF_MPI);
        self.wait_for(linger, |_| true)
    }

    /// Waits until no process of this case runs the program, and ends what is left of launchers.
    ///
    /// `mpiexec` whose supervisor is gone waits two minutes, by itself, after its ranks have ended.
    pub(super) fn settle_ranks(&self) -> Result<(), Failure> {
        self.wait_for(LINGER, |id| processes::runs(id, &self.lab.program))?;
        for id in processes::inside(&self.folder) {
            send(id, Signal::SIGKILL);
        }
        self.settle()
    }

    fn wait_for(&self, linger: Duration, counts: impl Fn(u32) -> bool) -> Result<(), Failure> {
        let begun = Instant::now();
        loop {
            let mut left = processes::inside(&self.folder);
            left.retain(|id| counts(*id));
            if left.is_empty() {
                return Ok(());
            }
            if begun.elapsed() > linger {
                let places: String = left.iter().map(|id| processes::threads(*id)).collect();
                process::note(&self.folder.join("left.txt"), &places);
                for id in &left {
                    send(*id, Signal::SIGKILL);
                }
                let text = format!("{left:?} after {} s, see left.txt", linger.as_secs());
                return Err(Fault::Leftover.with(text));
            }
            sleep(Duration::from_millis(5));
        }
    }

    /// Runs to the end without a disturbance and checks what the run left.
    pub(super) fn complete(&mut self, more: &[&str], expect: Expect) -> Result<Ended, Failure> {
        let running = self.start(self.command(more))?;
        let ended = self.end(running)?;
        ended.check(&[0])?;
        self.check(expect)?;
        Ok(ended)
    }

    /// Checks what a run left that has ended with 0.
    pub(super) fn check(&self, expect: Expect) -> Result<(), Failure> {
        let reference = self.reference()?;
        self.check_rows(&reference.rows, expect)?;
        let found = tensors(&self.run_folder(), self.setup.steps)?;
        if found != reference.tensors {
            let text = format!("last checkpoint {found:x?}, expected {:x?}", reference.tensors);
            return Err(Fault::Bits.with(text));
        }
        Ok(())
    }

    /// Checks the rows and logs of a run that has ended with 0 against those of another.
    pub(super) fn check_rows(&self, reference: &Rows, expect: Expect) -> Result<(), Failure> {
        self.settle()?;
        let rows = Rows::read(&self.run_folder())?;
        rows.check(reference, expect.numbers, expect.spared)?;
        self.check_logs()
    }

    /// Fails where a rank's log speaks of a panic.
    pub(super) fn check_logs(&self) -> Result<(), Failure> {
        for entry in fs::read_dir(self.run_folder().join("logs")).into_iter().flatten().flatten() {
            let text = process::read(&entry.path()).unwrap_or_default();
            process::check_text(&text, &entry.file_name().to_string_lossy())?;
        }
        Ok(())
    }
}
