//! The environment: the only place of the crate that reads variables.
//!
//! [`detect`] finds out whether an outside launcher started this process as one rank of many. It is
//! a pure function over a map, so that every launcher can be tested on any machine. The ladder:
//! torchrun, SLURM, Open MPI, PMI and PALS. Several may be present (SLURM's `srun` also speaks PMI)
//! as long as they agree; if they do not, `DREAM_TRAIN_LAUNCHER` names the one to believe. What is
//! concluded from which variables is in `docs/launch/environment.md`.

use std::collections::BTreeMap;

use super::slurm::{is_task, tasks_on_this_node};
use super::{Launcher, World, WorldError};

/// Environment variables by name.
pub type Variables = BTreeMap<String, String>;

/// Prefix of the variables that configure the trainer.
pub const PREFIX: &str = "DREAM_TRAIN_";
/// Variable that names the launcher to believe: `torchrun`, `slurm`, `openmpi`, `pmi`, `dream-train`
/// for processes this program started itself, or `none` to ignore them all.
pub const LAUNCHER_VARIABLE: &str = "DREAM_TRAIN_LAUNCHER";
/// Variable that chooses what is logged, in the syntax of `tracing-subscriber`:
/// `warn,dream_trainer=debug`.
pub const LOG_VARIABLE: &str = "DREAM_TRAIN_LOG";
/// Variable that chooses the attention kernels of NVIDIA GPUs, for benchmarks and for finding faults:
/// `cudnn` (the default: where it serves), `own` or `composed`.
pub const ATTENTION_VARIABLE: &str = "DREAM_TRAIN_ATTENTION";
/// Variables with [`PREFIX`] that speak of the process and not of the run: they are no keys.
pub const PROCESS_VARIABLES: [&str; 3] = [LAUNCHER_VARIABLE, LOG_VARIABLE, ATTENTION_VARIABLE];

/// Describes a process that an outside launcher started as one rank of many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct External {
    /// Which rank this process is.
    pub world: World,
    /// Host name or address of rank 0, where the launcher told it.
    pub main_address: Option<String>,
    /// Port on which rank 0 listens, where the launcher told it.
    pub main_port: Option<u16>,
}

/// The variables of one launcher; where several names stand, any of them will do and all must
/// agree.
struct Source {
    launcher: Launcher,
    rank: &'static [&'static str],
    size: &'static [&'static str],
    local_rank: &'static [&'static str],
    local_size: &'static [&'static str],
}

const SOURCES: [Source; 5] = [
    // The same variables as torchrun's, to be believed only if the launcher is named.
    Source {
        launcher: Launcher::DreamTrain,
        rank: &["RANK"],
        size: &["WORLD_SIZE"],
        local_rank: &["LOCAL_RANK"],
        local_size: &["LOCAL_WORLD_SIZE"],
    },
    Source {
        launcher: Launcher::Torchrun,
        rank: &["RANK"],
        size: &["WORLD_SIZE"],
        local_rank: &["LOCAL_RANK"],
        local_size: &["LOCAL_WORLD_SIZE"],
    },
    Source {
        launcher: Launcher::Slurm,
        rank: &["SLURM_PROCID"],
        size: &["SLURM_NTASKS", "SLURM_NPROCS"],
        // SLURM writes SLURM_LOCALID; some wrappers export the other spelling.
        local_rank: &["SLURM_LOCALID", "SLURM_LOCAL_ID"],
        local_size: &["SLURM_NTASKS_PER_NODE"],
    },
    Source {
        launcher: Launcher::OpenMpi,
        rank: &["OMPI_COMM_WORLD_RANK"],
        size: &["OMPI_COMM_WORLD_SIZE"],
        local_rank: &["OMPI_COMM_WORLD_LOCAL_RANK"],
        local_size: &["OMPI_COMM_WORLD_LOCAL_SIZE"],
    },
    Source {
        launcher: Launcher::Pmi,
        rank: &["PMI_RANK", "PALS_RANKID"],
        size: &["PMI_SIZE", "PALS_SIZE"],
        local_rank: &["PMI_LOCAL_RANK", "PALS_LOCAL_RANKID", "MPI_LOCALRANKID"],
        local_size: &["PMI_LOCAL_SIZE", "PALS_LOCAL_SIZE", "MPI_LOCALNRANKS"],
    },
];

/// A number and the variable it came from.
#[derive(Clone)]
pub(super) struct Reading {
    pub(super) variable: String,
    pub(super) value: usize,
}

/// The four numbers of one launcher.
struct Announcement {
    launcher: Launcher,
    rank: Reading,
    size: Reading,
    local_rank: Option<Reading>,
    local_size: Option<Reading>,
}

/// Returns the environment of this process; variables that are not UTF-8 are left out.
pub fn variables() -> Variables {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// Returns the variables that configure the trainer: those that start with [`PREFIX`], except
/// [`PROCESS_VARIABLES`].
pub fn dream_train_variables() -> Variables {
    configuring(variables())
}

/// Keeps the variables that configure the trainer; see [`dream_train_variables`].
pub fn configuring(mut variables: Variables) -> Variables {
    let is_key = |name: &str| name.starts_with(PREFIX) && !PROCESS_VARIABLES.contains(&name);
    variables.retain(|name, _| is_key(name));
    variables
}

/// Returns one variable of this process if it is set, not empty and UTF-8.
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Returns true if what is printed should have neither colors nor bars: `NO_COLOR` is set, `TERM` is
/// `dumb`, or Open MPI started this process, to which it gives a terminal of its own and passes on
/// what is printed there, be it into a pipe.
///
/// # References
///
/// The `NO_COLOR` convention, <https://no-color.org>.
pub fn wants_plain_output() -> bool {
    variable("NO_COLOR").is_some()
        || variable("TERM").is_some_and(|kind| kind == "dumb")
        || variable("OMPI_COMM_WORLD_RANK").is_some()
}

/// Returns the name of this host as the shell or the launcher exported it.
pub fn host_name() -> Option<String> {
    ["HOSTNAME", "SLURMD_NODENAME", "HOST"].iter().find_map(|name| variable(name))
}

/// Returns the number of nodes of a PBS job: the different lines of the file it names.
pub fn pbs_nodes(variables: &Variables) -> Option<u32> {
    let list = std::fs::read_to_string(variables.get("PBS_NODEFILE")?).ok()?;
    let nodes: std::collections::BTreeSet<&str> =
        list.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    u32::try_from(nodes.len()).ok().filter(|nodes| *nodes > 0)
}

/// Finds the launcher that started this process and the rank it gave it; `None` if there is no sign
/// of one.
///
/// # Errors
///
/// Variables that are not numbers, that contradict each other, or that are incomplete; each error
/// names them.
pub fn detect(variables: &Variables) -> Result<Option<External>, WorldError> {
    let wanted = wanted_launcher(variables)?;
    let mut found: Vec<Announcement> = Vec::new();
    // `torchrun` marks its processes; whatever started `torchrun` itself is one level further out.
    let of_torchrun = ["TORCHELASTIC_RUN_ID", "RANK"].iter().all(|name| is_set(name, variables));
    for source in &SOURCES {
        let ignored = match &wanted {
            Some(wanted) => *wanted != Some(source.launcher),
            None if of_torchrun => source.launcher != Launcher::Torchrun,
            None => {
                source.launcher == Launcher::DreamTrain
                    || source.launcher == Launcher::Slurm && !is_task(variables)?
            }
        };
        if !ignored && let Some(announcement) = announce(source, variables)? {
            found.push(announcement);
        }
    }
    for other in found.iter().skip(1) {
        agree(&found[0].rank, &other.rank)?;
        agree(&found[0].size, &other.size)?;
        for (ours, theirs) in
            [(&found[0].local_rank, &other.local_rank), (&found[0].local_size, &other.local_size)]
        {
            if let (Some(ours), Some(theirs)) = (ours, theirs) {
                agree(ours, theirs)?;
            }
        }
    }
    if let (None, Some(Some(launcher))) = (found.first(), wanted) {
        return Err(WorldError::Launcher {
            value: launcher.name().to_owned(),
            problem: "its rank variables are not set".to_owned(),
        });
    }
    if found.is_empty() {
        return Ok(None);
    }
    external(&found, variables).map(Some)
}

/// Reads [`LAUNCHER_VARIABLE`]: absent, `Some(None)` for `none`, or one launcher.
#[expect(clippy::option_option, reason = "unset, `none` and a name are three different wishes")]
fn wanted_launcher(variables: &Variables) -> Result<Option<Option<Launcher>>, WorldError> {
    let Some(value) = variables.get(LAUNCHER_VARIABLE).filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    if value == "none" {
        return Ok(Some(None));
    }
    let known = SOURCES.iter().map(|source| source.launcher);
    match known.clone().find(|launcher| launcher.name() == value) {
        Some(launcher) => Ok(Some(Some(launcher))),
        None => Err(WorldError::Launcher {
            value: value.clone(),
            problem: format!(
                "must be one of {}, `none`",
                known.map(|launcher| format!("`{launcher}`")).collect::<Vec<_>>().join(", ")
            ),
        }),
    }
}

/// Reads what one launcher says; `None` if it did not start this process.
fn announce(source: &Source, variables: &Variables) -> Result<Option<Announcement>, WorldError> {
    let rank = read(source.rank, variables)?;
    let size = read(source.size, variables)?;
    let (rank, size) = match (rank, size) {
        (Some(rank), Some(size)) => (rank, size),
        (None, None) => return Ok(None),
        // A world of one is the same as none.
        (None, Some(size)) if size.value == 1 => return Ok(None),
        (Some(rank), None) => return Err(incomplete(source, &rank, source.size, variables)),
        (None, Some(size)) => return Err(incomplete(source, &size, source.rank, variables)),
    };
    below(&rank, &size)?;
    let mut local_size = read(source.local_size, variables)?;
    if source.launcher == Launcher::Slurm && local_size.is_none() {
        local_size = tasks_on_this_node(variables)?;
    }
    let local_rank = read(source.local_rank, variables)?;
    if let (Some(local_rank), Some(local_size)) = (&local_rank, &local_size) {
        below(local_rank, local_size)?;
    }
    Ok(Some(Announcement { launcher: source.launcher, rank, size, local_rank, local_size }))
}

/// Puts together what the launchers say; a local number may come from any of them.
fn external(found: &[Announcement], variables: &Variables) -> Result<External, WorldError> {
    let Announcement { launcher, rank, size, .. } = &found[0];
    let source = SOURCES.iter().find(|source| source.launcher == *launcher);
    let source = source.expect("announcements are made from SOURCES");
    let alone = |value| (size.value == 1).then(|| Reading { variable: String::new(), value });
    let local_rank = found.iter().find_map(|one| one.local_rank.clone()).or_else(|| alone(0));
    let local_size = found.iter().find_map(|one| one.local_size.clone()).or_else(|| alone(1));
    let missing = |names| incomplete(source, rank, names, variables);
    let local_rank = local_rank.ok_or_else(|| missing(source.local_rank))?;
    let local_size = local_size.ok_or_else(|| missing(source.local_size))?;
    let port = read(&["MASTER_PORT"], variables)?;
    let main_port = port.map(|port| {
        u16::try_from(port.value)
            .map_err(|_| WorldError::Port { variable: port.variable, value: port.value })
    });
    Ok(External {
        world: World {
            rank: rank.value,
            world_size: size.value,
            local_rank: local_rank.value,
            local_world_size: local_size.value,
            launcher: *launcher,
        },
        main_address: variables.get("MASTER_ADDR").cloned(),
        main_port: main_port.transpose()?,
    })
}

/// Reads one number that may go by several names.
pub(super) fn read(names: &[&str], variables: &Variables) -> Result<Option<Reading>, WorldError> {
    let mut first: Option<Reading> = None;
    for name in names {
        let Some(text) = variables.get(*name).filter(|text| !text.is_empty()) else {
            continue;
        };
        let value = parse(name, text)?;
        let reading = Reading { variable: (*name).to_owned(), value };
        match &first {
            Some(first) => agree(first, &reading)?,
            None => first = Some(reading),
        }
    }
    Ok(first)
}

/// Says that this process is alone in an allocation for several tasks, if it is: nothing is wrong
/// with that, but it may not be what was meant.
pub fn alone_in_allocation(variables: &Variables) -> Option<String> {
    let is_alone = detect(variables).ok()?.is_none();
    let tasks = read(&["SLURM_NTASKS", "SLURM_NPROCS"], variables).ok()??;
    let hint = "`srun dream-train ..` or `dream-train launch ..` starts one rank for each task";
    (is_alone && tasks.value > 1 && !is_set(LAUNCHER_VARIABLE, variables)).then(|| {
        format!(
            "`{}` is {}, but `srun` did not start this process, so its ranks are threads; {hint}",
            tasks.variable, tasks.value
        )
    })
}

/// Returns the variable by which a launcher tells the number of its processes.
pub fn size_variable(launcher: Launcher) -> &'static str {
    let source = SOURCES.iter().find(|source| source.launcher == launcher);
    source.map_or(SOURCES[0].size[0], |source| source.size[0])
}

fn is_set(name: &str, variables: &Variables) -> bool {
    variables.get(name).is_some_and(|value| !value.is_empty())
}

pub(super) fn parse(name: &str, text: &str) -> Result<usize, WorldError> {
    let unparsable =
        || WorldError::Unparsable { variable: name.to_owned(), value: text.to_owned() };
    text.trim().parse().map_err(|_| unparsable())
}

fn agree(first: &Reading, second: &Reading) -> Result<(), WorldError> {
    if first.value == second.value {
        return Ok(());
    }
    Err(WorldError::Conflict {
        first: first.variable.clone(),
        first_value: first.value,
        second: second.variable.clone(),
        second_value: second.value,
    })
}

fn below(rank: &Reading, size: &Reading) -> Result<(), WorldError> {
    if rank.value < size.value {
        return Ok(());
    }
    Err(WorldError::RankOutOfRange {
        rank_variable: rank.variable.clone(),
        rank: rank.value,
        size_variable: size.variable.clone(),
        size: size.value,
    })
}

fn incomplete(
    source: &Source,
    present: &Reading,
    missing: &[&str],
    variables: &Variables,
) -> WorldError {
    let names = [source.rank, source.size, source.local_rank, source.local_size].concat();
    let set = names.into_iter().filter(|name| is_set(name, variables));
    let unset = set.map(|name| format!("-u {name}")).collect::<Vec<_>>().join(" ");
    let missing = missing.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" or ");
    let (present, value) = (present.variable.clone(), present.value);
    WorldError::Incomplete { launcher: source.launcher, present, value, missing, unset }
}
