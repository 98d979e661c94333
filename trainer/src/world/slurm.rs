//! What SLURM's variables say of a process.

use super::WorldError;
use super::env::{Reading, Variables, parse, read};

/// Steps of SLURM from this number on are shells and scripts, which `srun` did not start.
const FIRST_SPECIAL_STEP: usize = 0xffff_fff0;

/// Tells whether `srun` started this process: a shell of `salloc` and the script of `sbatch` have
/// the variables of a task 0, too, but are in no numbered step.
pub(super) fn is_task(variables: &Variables) -> Result<bool, WorldError> {
    let step = read(&["SLURM_STEP_ID", "SLURM_STEPID"], variables)?;
    let rank = read(&["SLURM_PROCID"], variables)?;
    Ok(match (step, rank) {
        (_, None) => false,
        (Some(step), Some(_)) => step.value < FIRST_SPECIAL_STEP,
        (None, Some(rank)) => rank.value > 0,
    })
}

/// Reads the entry of this node in SLURM's compressed list, such as `4(x2),3`.
pub(super) fn tasks_on_this_node(variables: &Variables) -> Result<Option<Reading>, WorldError> {
    let names = ["SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE"];
    let Some((name, list)) = names.iter().find_map(|name| Some((*name, variables.get(*name)?)))
    else {
        return Ok(None);
    };
    let mut node = read(&["SLURM_NODEID"], variables)?.map_or(0, |node| node.value);
    for entry in list.split(',') {
        let (tasks, repeat) = entry.split_once("(x").unwrap_or((entry, "1"));
        let nodes = parse(name, repeat.trim_end_matches(')'))?;
        if node < nodes {
            let value = parse(name, tasks)?;
            return Ok(Some(Reading { variable: name.to_owned(), value }));
        }
        node -= nodes;
    }
    Ok(None)
}
