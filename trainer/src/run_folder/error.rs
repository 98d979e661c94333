//! Why a run may not use its folder, or cannot go on in it.

use std::io;
use std::path::PathBuf;

use super::Holder;
use crate::comm::CommError;

/// A folder that a run cannot have, or no longer has.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunFolderError {
    /// Another process runs in it.
    #[error("the run folder `{}` is in use by {}", path.display(), named(holder.as_ref()))]
    InUse {
        /// Folder of the run.
        path: PathBuf,
        /// Who holds it, if the lock file says so.
        holder: Option<Holder>,
    },
    /// The file system refused something.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// Folder or file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The folder was removed, renamed or replaced while the run was going on.
    #[error(
        "the run folder `{}` was removed or replaced while the run was going on; what was not saved elsewhere is lost",
        path.display()
    )]
    Gone {
        /// Folder of the run.
        path: PathBuf,
    },
    /// Rank 0, in another process, could not have the folder.
    #[error("rank 0 could not take the run folder: {reason}")]
    RankZero {
        /// What it said.
        reason: String,
    },
    /// Processes could not tell each other who has the folder.
    #[error(transparent)]
    Comm(#[from] CommError),
}

fn named(holder: Option<&Holder>) -> String {
    holder.map_or_else(
        || "a process that its lock file does not name".to_owned(),
        ToString::to_string,
    )
}
