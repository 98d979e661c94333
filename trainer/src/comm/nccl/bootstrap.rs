//! Where the processes of a world of GPUs meet: NCCL's identifier of the world travels over MPI, or
//! NCCL itself brings them together at an address.

use super::super::JoinError;
use crate::world::env::{External, Variables};
use crate::world::{Launcher, World};

/// The variable in which NCCL looks for the address.
pub(super) const ADDRESS_VARIABLE: &str = "NCCL_COMM_ID";
/// The variable that lets ranks share a GPU, and the value it needs.
pub(super) const SHARING: (&str, &str) = ("NCCL_MULTI_RANK_GPU_ENABLE", "1");
/// First version of NCCL that has every call this program makes.
pub(crate) const OLDEST: u32 = 21_800;
/// First version of NCCL that knows [`SHARING`].
pub(crate) const SHARING_VERSION: u32 = 23_000;

/// How processes learn the identifier of their world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Meeting {
    /// Rank 0 makes it and broadcasts it over MPI.
    Mpi,
    /// Rank 0 listens at this address, and the others connect to it.
    Address(String),
}

impl Meeting {
    /// Chooses by the launcher and the environment, which are the same on every process.
    ///
    /// # Errors
    ///
    /// There is no MPI and no address.
    pub(super) fn new(
        external: &External,
        variables: &Variables,
        has_mpi: bool,
    ) -> Result<Self, JoinError> {
        let launcher = external.world.launcher;
        if let Some(address) = variables.get(ADDRESS_VARIABLE).filter(|value| !value.is_empty()) {
            return Ok(Self::Address(address.clone()));
        }
        if has_mpi && matches!(launcher, Launcher::OpenMpi | Launcher::Pmi) {
            return Ok(Self::Mpi);
        }
        let missing = match (&external.main_address, external.main_port) {
            (Some(host), Some(port)) => {
                return Ok(Self::Address(address(host, free_beside(port, variables)?)));
            }
            (None, None) => vec!["MASTER_ADDR", "MASTER_PORT"],
            (None, Some(_)) => vec!["MASTER_ADDR"],
            (Some(_), None) => vec!["MASTER_PORT"],
        };
        if has_mpi && launcher == Launcher::Slurm {
            return Ok(Self::Mpi);
        }
        Err(JoinError::NoMeeting { launcher, missing })
    }
}

/// Returns the port on which rank 0 may listen: that of `torchrun` is taken by its own store where
/// the agent keeps one, so the next is used.
fn free_beside(port: u16, variables: &Variables) -> Result<u16, JoinError> {
    let is_taken = variables
        .get("TORCHELASTIC_USE_AGENT_STORE")
        .is_some_and(|value| value.eq_ignore_ascii_case("true") || value == "1");
    if !is_taken {
        return Ok(port);
    }
    port.checked_add(1).ok_or(JoinError::NoPort { port })
}

/// Writes an address as NCCL reads it.
fn address(host: &str, port: u16) -> String {
    let is_plain_v6 = host.contains(':') && !host.starts_with('[');
    if is_plain_v6 { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Explains why ranks that share a GPU cannot be joined, if they do.
///
/// `visible` is the number of GPUs this process sees, `version` that of NCCL.
pub(super) fn refused_sharing(
    world: &World,
    visible: usize,
    version: u32,
    variables: &Variables,
) -> Option<JoinError> {
    if world.local_world_size <= visible {
        return None;
    }
    let (name, value) = SHARING;
    let problem = if version < SHARING_VERSION {
        format!("NCCL {} does not join ranks that share a GPU, 2.30 and later do", dotted(version))
    } else if variables.get(name).map(String::as_str) == Some(value) {
        return None;
    } else {
        format!("ranks share a GPU only with `{name}={value}` (and `NCCL_NVLS_ENABLE=0`)")
    };
    Some(JoinError::SharedGpu { ranks: world.local_world_size, gpus: visible, problem })
}

/// Writes a version number such as 23004 as 2.30.4.
pub(crate) fn dotted(version: u32) -> String {
    // Before 2.9 NCCL counted in steps of 1000.
    let (major, minor, patch) = if version < 10_000 {
        (version / 1000, version / 100 % 10, version % 100)
    } else {
        (version / 10_000, version / 100 % 100, version % 100)
    };
    format!("{major}.{minor}.{patch}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn external(launcher: Launcher, address: Option<&str>, port: Option<u16>) -> External {
        let world = World { rank: 1, world_size: 4, local_rank: 1, local_world_size: 4, launcher };
        External { world, main_address: address.map(String::from), main_port: port }
    }

    fn variables(pairs: &[(&str, &str)]) -> Variables {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn processes_meet_where_the_environment_says() {
        use Launcher::{OpenMpi, Pmi, Slurm, Torchrun};
        let host = Some("node7");
        let at = |address: &str| Meeting::Address(address.to_owned());
        let agent: &[(&str, &str)] = &[("TORCHELASTIC_USE_AGENT_STORE", "True")];
        let given: &[(&str, &str)] = &[("NCCL_COMM_ID", "10.0.0.1:5")];
        let rows = [
            (Torchrun, host, Some(29500), &[][..], false, at("node7:29500")),
            (Torchrun, host, Some(29500), agent, true, at("node7:29501")),
            (Torchrun, Some("fe80::1"), Some(7), &[], false, at("[fe80::1]:7")),
            (Torchrun, Some("[fe80::1]"), Some(7), &[], false, at("[fe80::1]:7")),
            (Torchrun, None, None, given, false, at("10.0.0.1:5")),
            (Slurm, host, Some(29500), &[], true, at("node7:29500")),
            (Slurm, None, None, &[], true, Meeting::Mpi),
            (OpenMpi, None, None, &[], true, Meeting::Mpi),
            (OpenMpi, host, Some(1), &[], true, Meeting::Mpi),
            (Pmi, None, None, &[], true, Meeting::Mpi),
            (OpenMpi, host, Some(1), &[], false, at("node7:1")),
        ];
        for (launcher, address, port, set, has_mpi, expected) in rows {
            let external = external(launcher, address, port);
            let found = Meeting::new(&external, &variables(set), has_mpi);
            assert_eq!(found.expect("they meet"), expected, "{launcher} {address:?} {set:?}");
        }
    }

    #[test]
    fn what_is_missing_is_named_with_the_remedy() {
        let rows = [
            (Launcher::Slurm, None, None, "`MASTER_ADDR` and `MASTER_PORT` are"),
            (Launcher::OpenMpi, Some("a"), None, "`MASTER_PORT` is"),
            (Launcher::Torchrun, None, Some(1), "`MASTER_ADDR` is"),
        ];
        for (launcher, address, port, expected) in rows {
            let error = Meeting::new(&external(launcher, address, port), &Variables::new(), false);
            let text = error.expect_err("nobody knows where").to_string();
            assert!(text.contains(expected) && text.contains("--features mpi"), "{text}");
        }
        let agent = variables(&[("TORCHELASTIC_USE_AGENT_STORE", "1")]);
        let last = external(Launcher::Torchrun, Some("a"), Some(u16::MAX));
        let error = Meeting::new(&last, &agent, false).expect_err("there is no next port");
        assert!(error.to_string().contains("65535"), "{error}");
    }

    #[test]
    fn ranks_that_share_a_gpu_need_a_new_library_and_a_variable() {
        let world = external(Launcher::Torchrun, None, None).world;
        let asked = variables(&[SHARING]);
        let text = |gpus, version, set: &Variables| {
            refused_sharing(&world, gpus, version, set).map(|error| error.to_string())
        };
        assert_eq!(text(4, 21_800, &asked), None, "a GPU for each");
        assert_eq!(text(1, 23_004, &asked), None, "allowed");
        let old = text(1, 22_809, &asked).expect("too old");
        assert!(old.contains("NCCL 2.28.9") && old.contains("ranks = \"threads\""), "{old}");
        let unasked = text(2, 23_004, &Variables::new()).expect("not asked for");
        assert!(unasked.contains("NCCL_MULTI_RANK_GPU_ENABLE=1"), "{unasked}");
        assert!(unasked.contains("4 ranks") && unasked.contains("2 GPUs"), "{unasked}");
    }

    #[test]
    fn versions_read_as_people_write_them() {
        for (number, text) in [(2_804, "2.8.4"), (21_803, "2.18.3"), (23_004, "2.30.4")] {
            assert_eq!(dotted(number), text);
        }
    }
}
