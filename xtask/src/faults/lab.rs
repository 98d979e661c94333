//! What all cases of a campaign share: the program, the limit, the undisturbed runs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::reference::References;

/// What all cases of a campaign share.
pub(super) struct Lab {
    pub(super) program: PathBuf,
    pub(super) folder: PathBuf,
    pub(super) limit: Duration,
    /// Number of MPI processes of each run, if its ranks are such.
    pub(super) processes: Option<usize>,
    pub(super) references: References,
}

impl Lab {
    /// Returns the text file that some runs train on.
    pub(super) fn words(&self) -> PathBuf {
        self.folder.join("words.txt")
    }

    /// Returns a call of the program in a folder, in a clean environment.
    pub(super) fn command(
        &self,
        folder: &Path,
        processes: Option<usize>,
        arguments: &[&str],
    ) -> Command {
        let mut command = match processes {
            Some(processes) => {
                let mut command = Command::new("mpirun");
                command.args(["-n", &processes.to_string()]).arg(&self.program);
                command
            }
            None => Command::new(&self.program),
        };
        command.args(arguments);
        clean(&mut command, folder);
        command
    }
}

/// Leaves a program only those variables that it needs to be found, and Open MPI the permission to
/// start more processes than there are cores.
pub(super) fn clean(command: &mut Command, folder: &Path) {
    command.current_dir(folder).env_clear();
    for name in ["PATH", "HOME", "LD_LIBRARY_PATH", "TMPDIR"] {
        command.envs(std::env::var_os(name).map(|value| (name, value)));
    }
    command.envs([
        ("NO_COLOR", "1"),
        ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
        ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
        ("OMPI_MCA_rmaps_base_oversubscribe", "1"),
        ("OMPI_MCA_hwloc_base_binding_policy", "none"),
    ]);
}
