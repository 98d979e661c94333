//! The command line that starts the processes, for each scheduler.

use std::borrow::Cow;
use std::ffi::OsString;
use std::fmt;

use clap::ValueEnum;

use super::layout::{Layout, Wanted};
use crate::world::Launcher;
use crate::world::env::{self, LAUNCHER_VARIABLE, Variables};

/// Seconds that Open MPI waits between asking processes to end and killing them: time to finish a
/// step and to save.
const GRACE: (&str, &str) = ("OMPI_MCA_odls_base_sigkill_timeout", "60");

/// Who starts processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Scheduler {
    /// What the environment tells of: SLURM, PBS, or neither
    Auto,
    /// SLURM's `srun`
    Slurm,
    /// `mpiexec` of PALS, under PBS
    Pbs,
    /// `mpiexec` of Open MPI or MPICH
    Mpi,
    /// This program, on this machine; for GPUs
    Local,
}

impl Scheduler {
    /// Resolves `auto`.
    pub(super) fn or_detected(self, variables: &Variables) -> Self {
        match self {
            Self::Auto if variables.contains_key("SLURM_JOB_ID") => Self::Slurm,
            Self::Auto if variables.contains_key("PBS_JOBID") => Self::Pbs,
            Self::Auto => Self::Mpi,
            named => named,
        }
    }

    /// Returns what the allocation of this job offers.
    pub(super) fn allocation(self, variables: &Variables) -> Wanted {
        let number = |names: &[&str]| {
            names.iter().find_map(|name| variables.get(*name)?.trim().parse().ok())
        };
        match self {
            Self::Slurm => Wanted {
                total: number(&["SLURM_NTASKS", "SLURM_NPROCS"]),
                nodes: number(&["SLURM_JOB_NUM_NODES", "SLURM_NNODES"]),
                per_node: number(&["SLURM_NTASKS_PER_NODE"]),
            },
            Self::Pbs => Wanted { nodes: env::pbs_nodes(variables), ..Wanted::default() },
            Self::Mpi | Self::Local | Self::Auto => Wanted::default(),
        }
    }
}

/// A command line with the variables it sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StartLine {
    pub(super) variables: Vec<(&'static str, &'static str)>,
    pub(super) words: Vec<OsString>,
    /// How many processes of it are started here, as the ranks of one world; nothing for one that is
    /// started as it is.
    pub(super) processes: Option<usize>,
}

/// Lets ranks share GPUs: NCCL wants to be asked, cannot use multicast then, and should leave room on
/// the GPU for the others.
const SHARING: [(&str, &str); 3] =
    [("NCCL_MULTI_RANK_GPU_ENABLE", "1"), ("NCCL_NVLS_ENABLE", "0"), ("NCCL_MAX_CTAS", "4")];
/// Port that is shown where a free one is looked for.
const SHOWN_PORT: u16 = 29500;

impl StartLine {
    /// Starts the program without a launcher: its ranks are threads.
    pub(super) fn alone(program: OsString, arguments: Vec<OsString>) -> Self {
        Self { variables: Vec::new(), words: [vec![program], arguments].concat(), processes: None }
    }

    /// Starts `processes` processes of the program on this machine, which has so many GPUs that
    /// programs can use.
    pub(super) fn local(
        processes: usize,
        gpus: usize,
        program: OsString,
        arguments: Vec<OsString>,
    ) -> Self {
        let share = gpus > 0 && processes > gpus;
        let variables = if share { SHARING.to_vec() } else { Vec::new() };
        Self { variables, processes: Some(processes), ..Self::alone(program, arguments) }
    }

    /// Returns the variables by which a process finds the others, which meet at a port.
    pub(super) fn identity(&self, rank: usize, port: u16) -> Vec<(&'static str, String)> {
        let Some(processes) = self.processes else { return Vec::new() };
        let (rank, processes) = (rank.to_string(), processes.to_string());
        vec![
            (LAUNCHER_VARIABLE, Launcher::DreamTrain.name().to_owned()),
            ("RANK", rank.clone()),
            ("WORLD_SIZE", processes.clone()),
            ("LOCAL_RANK", rank),
            ("LOCAL_WORLD_SIZE", processes),
            ("MASTER_ADDR", "127.0.0.1".to_owned()),
            ("MASTER_PORT", port.to_string()),
        ]
    }

    /// Starts `layout` processes of the program.
    pub(super) fn new(
        scheduler: Scheduler,
        layout: Layout,
        more: &[String],
        program: OsString,
        arguments: Vec<OsString>,
    ) -> Self {
        let alone = Self::alone(program, arguments);
        let Layout { total, nodes, per_node } = layout;
        let (variables, launcher) = match scheduler {
            Scheduler::Slurm => {
                let mut words = vec!["srun".to_owned(), format!("--ntasks={total}")];
                words.extend(nodes.map(|nodes| format!("--nodes={nodes}")));
                words.extend(per_node.map(|count| format!("--ntasks-per-node={count}")));
                words.extend(["--mpi=pmix", "--kill-on-bad-exit=1"].map(String::from));
                (Vec::new(), words)
            }
            Scheduler::Pbs => {
                let mut words = vec!["mpiexec".to_owned(), "-n".to_owned(), total.to_string()];
                words.extend(
                    per_node
                        .map(|count| ["--ppn".to_owned(), count.to_string()])
                        .into_iter()
                        .flatten(),
                );
                (Vec::new(), words)
            }
            Scheduler::Local | Scheduler::Mpi | Scheduler::Auto if total == 1 => return alone,
            Scheduler::Local | Scheduler::Mpi | Scheduler::Auto => {
                let mut words = vec!["mpiexec".to_owned(), "-n".to_owned(), total.to_string()];
                words.extend(
                    per_node
                        .map(|count| ["--map-by".to_owned(), format!("ppr:{count}:node")])
                        .into_iter()
                        .flatten(),
                );
                (vec![GRACE], words)
            }
        };
        let launcher = launcher.into_iter().chain(more.iter().cloned()).map(OsString::from);
        Self { variables, words: launcher.chain(alone.words).collect(), processes: None }
    }

    /// Returns the same command with further arguments.
    pub(super) fn with(&self, arguments: &[&str]) -> Self {
        let mut line = self.clone();
        line.words.extend(arguments.iter().map(OsString::from));
        line
    }
}

impl fmt::Display for StartLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<String> = self.words.iter().map(|word| quoted(word).into_owned()).collect();
        for rank in 0..self.processes.unwrap_or(1) {
            if rank > 0 {
                writeln!(f)?;
            }
            for (name, value) in &self.variables {
                write!(f, "{name}={value} ")?;
            }
            for (name, value) in self.identity(rank, SHOWN_PORT) {
                write!(f, "{name}={value} ")?;
            }
            f.write_str(&words.join(" "))?;
        }
        Ok(())
    }
}

/// Writes a word as a shell reads it.
fn quoted(word: &OsString) -> Cow<'_, str> {
    let text = word.to_string_lossy();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text;
    }
    format!("'{}'", text.replace('\'', r"'\''")).into()
}
