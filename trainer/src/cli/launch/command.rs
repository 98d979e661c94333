//! The command line that starts the processes, for each scheduler.

use std::borrow::Cow;
use std::ffi::OsString;
use std::fmt;

use clap::ValueEnum;

use super::layout::{Layout, Wanted};
use crate::world::env::{self, Variables};

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
            Self::Mpi | Self::Auto => Wanted::default(),
        }
    }
}

/// A command line with the variables it sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StartLine {
    pub(super) variables: Vec<(&'static str, &'static str)>,
    pub(super) words: Vec<OsString>,
}

impl StartLine {
    /// Starts the program without a launcher: its ranks are threads.
    pub(super) fn alone(program: OsString, arguments: Vec<OsString>) -> Self {
        Self { variables: Vec::new(), words: [vec![program], arguments].concat() }
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
            Scheduler::Mpi | Scheduler::Auto if total == 1 => return alone,
            Scheduler::Mpi | Scheduler::Auto => {
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
        Self { variables, words: launcher.chain(alone.words).collect() }
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
        for (name, value) in &self.variables {
            write!(f, "{name}={value} ")?;
        }
        let words: Vec<String> = self.words.iter().map(|word| quoted(word).into_owned()).collect();
        f.write_str(&words.join(" "))
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
