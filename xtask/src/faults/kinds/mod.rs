//! What is done to a run, one kind a file.

mod branch;
mod change;
mod configs;
mod console;
mod damage;
mod disk;
mod folder;
mod headers;
mod kill;
mod signals;
mod stall;
mod starts;
mod supervisor;

use std::fmt::{self, Display};

use clap::ValueEnum;

use super::dice::Dice;
use super::failure::Failure;
use super::setup::Setup;
use super::stage::Stage;

/// How a case without a failure ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Good {
    /// The run went to its end and is the undisturbed one.
    Completed,
    /// The program refused to go on, in a way that it may.
    Refused,
    /// This machine does not let it be tried.
    Skipped,
}

/// What is done to a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Kind {
    /// SIGKILL at random moments, a start after each
    Kill,
    /// SIGSTOP, with and without SIGCONT and a supervisor
    Stall,
    /// Cut, changed and removed files between two starts
    Damage,
    /// A full disk, or files that cannot grow
    Disk,
    /// A console that is full, closed, paused or gone
    Console,
    /// Several starts in one folder within a moment
    Starts,
    /// SIGTERM, SIGINT, SIGHUP and SIGUSR1 at random moments
    Signals,
    /// A supervisor that is killed
    Supervisor,
    /// Changed configurations
    Configs,
    /// Changed token files, tensor files, tokenizers and Hugging Face folders
    Headers,
    /// A start from an earlier step
    Branch,
    /// Another mesh or batch after a start
    Change,
    /// A run folder that is removed while the run writes into it
    Folder,
}

/// A kind, how often it comes out of 100, and whether it is meant for MPI too.
const SHARES: [(Kind, u64, bool); 13] = [
    (Kind::Kill, 16, true),
    (Kind::Stall, 7, true),
    (Kind::Damage, 20, true),
    (Kind::Disk, 9, true),
    (Kind::Console, 11, false),
    (Kind::Starts, 7, true),
    (Kind::Signals, 9, true),
    (Kind::Supervisor, 4, true),
    (Kind::Configs, 5, true),
    (Kind::Headers, 4, false),
    (Kind::Branch, 4, true),
    (Kind::Change, 2, true),
    (Kind::Folder, 2, true),
];

impl Kind {
    /// Chooses a kind.
    pub(super) fn choose(dice: &mut Dice, is_mpi: bool) -> Self {
        let possible = || SHARES.iter().filter(|share| !is_mpi || share.2);
        let mut left = dice.within(0..possible().map(|share| share.1).sum());
        for (kind, share, _) in possible() {
            if left < *share {
                return *kind;
            }
            left -= share;
        }
        Self::Kill
    }

    /// Changes a run to one that this kind can do something with.
    pub(super) fn adjust(self, setup: &mut Setup) {
        match self {
            Self::Console | Self::Stall => setup.console_every_n_steps = 1,
            Self::Branch => setup.keep_latest = 0,
            // What other meshes and batches compute differs by rounding, which grows.
            Self::Change => (setup.is_half, setup.steps) = (false, 24),
            _ => {}
        }
    }

    /// Does it.
    pub(super) fn run(self, stage: &mut Stage<'_>) -> Result<Good, Failure> {
        match self {
            Self::Kill => kill::run(stage),
            Self::Stall => stall::run(stage),
            Self::Damage => damage::run(stage),
            Self::Disk => disk::run(stage),
            Self::Console => console::run(stage),
            Self::Starts => starts::run(stage),
            Self::Signals => signals::run(stage),
            Self::Supervisor => supervisor::run(stage),
            Self::Configs => configs::run(stage),
            Self::Headers => headers::run(stage),
            Self::Branch => branch::run(stage),
            Self::Change => change::run(stage),
            Self::Folder => folder::run(stage),
        }
    }
}

impl Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value();
        f.pad(value.as_ref().map_or("", |value| value.get_name()))
    }
}
