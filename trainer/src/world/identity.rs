//! [`World`]: the identity of one rank, and what can be wrong with it.

use std::fmt;

/// Names who started the ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Launcher {
    /// Threads of this process, started by the trainer itself.
    Threads,
    /// This program itself: processes on the GPUs of one machine.
    DreamTrain,
    /// `torchrun`, or anything that sets `RANK` and `WORLD_SIZE`.
    Torchrun,
    /// SLURM's `srun`.
    Slurm,
    /// Open MPI's `mpirun`.
    OpenMpi,
    /// A launcher that speaks PMI: MPICH's Hydra, Intel MPI, Cray and HPE PALS.
    Pmi,
}

impl Launcher {
    /// Returns the name used in messages and in `DREAM_TRAIN_LAUNCHER`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Threads => "threads",
            Self::DreamTrain => "dream-train",
            Self::Torchrun => "torchrun",
            Self::Slurm => "slurm",
            Self::OpenMpi => "openmpi",
            Self::Pmi => "pmi",
        }
    }
}

impl fmt::Display for Launcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Identifies one rank among all ranks of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct World {
    /// Number of this rank over all nodes, from 0.
    pub rank: usize,
    /// Number of ranks over all nodes.
    pub world_size: usize,
    /// Number of this rank on its node, from 0.
    pub local_rank: usize,
    /// Number of ranks on this node.
    pub local_world_size: usize,
    /// Who started the ranks.
    pub launcher: Launcher,
}

impl World {
    /// Returns the identity of a thread rank: every rank lives on this node.
    ///
    /// # Panics
    ///
    /// If `rank` is not below `world_size`.
    pub fn thread(rank: usize, world_size: usize) -> Self {
        assert!(rank < world_size, "rank {rank} is not below {world_size}");
        Self {
            rank,
            world_size,
            local_rank: rank,
            local_world_size: world_size,
            launcher: Launcher::Threads,
        }
    }

    /// Returns the identity of the only rank of a world of one.
    pub fn single() -> Self {
        Self::thread(0, 1)
    }

    /// Returns true on the rank that speaks for the run.
    pub fn is_main(&self) -> bool {
        self.rank == 0
    }
}

/// Describes why the identity of this process could not be established.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WorldError {
    /// A variable is not a whole number.
    #[error("`{variable}` is `{value}` but must be a whole number")]
    Unparsable {
        /// The variable.
        variable: String,
        /// Its value.
        value: String,
    },
    /// A variable is not a port.
    #[error("`{variable}` is `{value}` but must be a port, below 65536")]
    Port {
        /// The variable.
        variable: String,
        /// Its value.
        value: usize,
    },
    /// A rank is not below the number of ranks.
    #[error(
        "`{rank_variable}` is {rank} but must be below `{size_variable}` = {size}; ranks count from 0"
    )]
    RankOutOfRange {
        /// The variable that holds the rank.
        rank_variable: String,
        /// The rank.
        rank: usize,
        /// The variable that holds the size.
        size_variable: String,
        /// The size.
        size: usize,
    },
    /// Two variables that say the same thing disagree.
    #[error(
        "`{first}` is {first_value} but `{second}` is {second_value}, so two launchers claim this \
         process; take away the one that is left over (`env -u {second} ..`), or name the launcher to \
         believe in `DREAM_TRAIN_LAUNCHER`"
    )]
    Conflict {
        /// One variable.
        first: String,
        /// Its value.
        first_value: usize,
        /// The other variable.
        second: String,
        /// Its value.
        second_value: usize,
    },
    /// A launcher announced itself but a number is missing.
    #[error(
        "`{present}` is {value}, as if {launcher} had started this process, but {missing} is not set; set it, or take away what is left over: `env {unset} ..`, or `DREAM_TRAIN_LAUNCHER=none` for ranks that are threads"
    )]
    Incomplete {
        /// The launcher that was recognized.
        launcher: Launcher,
        /// The variable by which it was recognized.
        present: String,
        /// Its value.
        value: usize,
        /// The variables of which one is needed, in backticks.
        missing: String,
        /// Arguments of `env` that take away what the launcher seems to have set.
        unset: String,
    },
    /// `DREAM_TRAIN_LAUNCHER` names a launcher that did not start this process, or none at all.
    #[error("`DREAM_TRAIN_LAUNCHER` is `{value}` but {problem}")]
    Launcher {
        /// The value of the variable.
        value: String,
        /// What is wrong with it.
        problem: String,
    },
}
