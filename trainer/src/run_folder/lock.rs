//! The lock file of a run folder.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::{Holder, RunFolderError};

/// Name of the file in a run's folder.
const FILE_NAME: &str = "run.lock";

/// A locked file. The operating system releases it when the process ends, however that happens, so
/// a file that a dead process left is no obstacle.
#[derive(Debug)]
pub(super) struct FolderLock {
    file: File,
    path: PathBuf,
    /// Why the file is not locked, where the file system cannot lock.
    unlocked: Option<io::Error>,
    /// Why the file does not say who holds it.
    unnamed: Option<io::Error>,
}

impl FolderLock {
    /// Makes the folder if needed, takes its lock without waiting and writes who holds it.
    pub(super) fn take(directory: &Path) -> Result<Self, RunFolderError> {
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |source| RunFolderError::Io { action, path, source }
        };
        fs::create_dir_all(directory).map_err(failed("make the run folder", directory))?;
        let path = directory.join(FILE_NAME);
        let opened =
            File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = opened.map_err(failed("open the lock file", &path))?;
        let unlocked = match lock(&file, &path) {
            Ok(()) => None,
            Err((TryLockError::WouldBlock, holder)) => {
                return Err(RunFolderError::InUse { path: directory.to_owned(), holder });
            }
            Err((TryLockError::Error(error), _)) if has_no_locks(&error) => Some(error),
            Err((TryLockError::Error(error), _)) => return Err(failed("lock", &path)(error)),
        };
        if !is_at(&file, &path) {
            // Someone removed the folder between the two calls.
            return Err(RunFolderError::Gone { path: directory.to_owned() });
        }
        // The lock counts, not the text: on a full disk a run may still free space and save.
        let unnamed = Holder::this_process().write(&mut file).err();
        Ok(Self { file, path, unlocked, unnamed })
    }

    /// Tells whether the file still lies where it was made.
    pub(super) fn is_there(&self) -> bool {
        is_at(&self.file, &self.path)
    }

    /// Warns of what this lock does not do. Apart from taking it, because logs start later.
    pub(super) fn warn(&self) {
        let path = self.path.display();
        if let Some(error) = &self.unlocked {
            tracing::warn!(
                %error,
                %path,
                "this file system has no locks: make sure that no second run uses the same folder"
            );
        }
        if let Some(error) = &self.unnamed {
            tracing::warn!(%error, %path, "the lock file does not say who holds it");
        }
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        // A run that ended names nobody. Where this fails, the text of a dead process stays, which
        // nobody reads while the file is not locked.
        drop(self.file.set_len(0));
    }
}

/// Locks a file without waiting for the run that holds it, or says who that is.
///
/// A holder that names nobody is about to end: it empties the file before the lock goes.
fn lock(file: &File, path: &Path) -> Result<(), (TryLockError, Option<Holder>)> {
    /// How often the lock is asked for where nobody is named.
    const TRIES: u32 = 3;
    for _ in 0..TRIES {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) => {
                let holder = Holder::read(path);
                if holder.is_some() {
                    return Err((TryLockError::WouldBlock, holder));
                }
            }
            Err(error) => return Err((error, None)),
        }
    }
    Err((TryLockError::WouldBlock, None))
}

/// Tells whether an error means that this file system has no locks: Lustre mounted without `flock`,
/// NFS without a lock service.
fn has_no_locks(error: &io::Error) -> bool {
    #[cfg(unix)]
    const NO_LOCKS: i32 = nix::libc::ENOLCK;
    #[cfg(unix)]
    if error.raw_os_error() == Some(NO_LOCKS) {
        return true;
    }
    error.kind() == io::ErrorKind::Unsupported
}

/// Tells whether `path` names an open file. Writing to a file that was removed succeeds, so only
/// this finds out.
///
/// A system that does not answer for another reason than that the name is gone counts as a yes.
#[cfg(unix)]
pub(crate) fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;

    let place = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata().map(place), fs::metadata(path).map(place)) {
        (Ok(opened), Ok(named)) => opened == named,
        (_, Err(error)) => {
            !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
        }
        (Err(_), Ok(_)) => true,
    }
}

/// Tells whether `path` names a file; one that was replaced is not noticed here.
#[cfg(not(unix))]
pub(crate) fn is_at(_: &File, path: &Path) -> bool {
    path.exists()
}

#[cfg(all(test, unix))]
mod tests {
    use nix::libc::{EIO, ENOLCK, ENOSYS, EOPNOTSUPP};

    use super::*;

    #[test]
    fn only_missing_support_leaves_a_folder_without_a_lock() {
        for (code, expected) in [(ENOLCK, true), (ENOSYS, true), (EOPNOTSUPP, true), (EIO, false)] {
            let error = io::Error::from_raw_os_error(code);
            assert_eq!(has_no_locks(&error), expected, "{error}");
        }
    }
}
