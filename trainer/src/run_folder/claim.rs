//! Taking a run folder, on one process or on many.

use std::path::{Path, PathBuf};
use std::time::Duration;

use burn::tensor::TensorData;
use serde::{Deserialize, Serialize};

use super::lock::FolderLock;
use super::{Holder, RunFolderError, write_anew};
use crate::comm::{
    CommError, CommTimeouts, ProcessGroup, RankContext, RankFault, Ranks, ReduceOp, launch,
};

/// How often a folder is looked for before it counts as gone.
const LOOKS: u32 = 4;
/// Pause between those looks.
const LOOK: Duration = Duration::from_millis(50);

/// The folder of a run that this process takes part in. Dropped, it is free for the next run.
#[derive(Debug)]
pub struct RunFolder {
    directory: PathBuf,
    /// Held where rank 0 is.
    lock: Option<FolderLock>,
    may_write: bool,
}

/// What rank 0 tells the ranks of other processes.
#[derive(Serialize, Deserialize)]
enum Verdict {
    Taken,
    InUse(Option<Holder>),
    Failed(String),
}

impl RunFolder {
    /// Name of the file that holds the configuration of the newest start.
    pub const CONFIG: &'static str = "config.toml";

    /// Takes a folder for one run, before anything in it is written.
    ///
    /// The process of rank 0 holds an exclusive lock of the operating system on `run.lock` in it
    /// until this value is dropped or the process ends, however that happens. On a file system
    /// without locks the run goes on with a warning.
    ///
    /// # Communication
    ///
    /// None for ranks that are threads; for processes, a fabric of its own over which rank 0 says
    /// how it went, so that all of them return the same.
    ///
    /// # Errors
    ///
    /// Another run holds the folder; it cannot be made; processes that did not come in time.
    pub fn claim(
        directory: &Path,
        ranks: &Ranks,
        timeouts: CommTimeouts,
    ) -> Result<Self, RunFolderError> {
        let with = |lock| Self { directory: directory.to_owned(), lock, may_write: true };
        if let Ranks::Threads(_) = ranks {
            return FolderLock::take(directory).map(|lock| with(Some(lock)));
        }
        // A refusal is not a failed rank: the others would end before they have heard the reason.
        let told = launch(ranks, timeouts, |ctx| agree(directory, &ctx));
        let told = told.map_err(|failure| match *failure.fault {
            RankFault::Error(error) | RankFault::Comm(error) => RunFolderError::Comm(error),
            RankFault::Panic(reason) => RunFolderError::RankZero { reason },
            RankFault::Start(error) => RunFolderError::RankZero { reason: error.to_string() },
        })?;
        told.into_iter().next().expect("a process holds at least one rank").map(with)
    }

    /// Names the folder of a run that writes nothing into it, so that nobody is kept out.
    pub fn unwritten(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into(), lock: None, may_write: false }
    }

    /// Returns the folder.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Tells whether the run may write into the folder.
    pub fn may_write(&self) -> bool {
        self.may_write
    }

    /// Warns of what the lock does not do, once logs go somewhere.
    pub(crate) fn warn(&self) {
        if let Some(lock) = &self.lock {
            lock.warn();
        }
    }

    /// Finds out whether the folder is still there. Only the process of rank 0 can tell; elsewhere
    /// this says yes.
    ///
    /// # Errors
    ///
    /// It was removed, renamed or replaced. Files in it that are open can still be written, into
    /// nowhere.
    pub fn check(&self) -> Result<(), RunFolderError> {
        let Some(lock) = &self.lock else { return Ok(()) };
        for _ in 0..LOOKS {
            if lock.is_there() {
                return Ok(());
            }
            // A network file system may show an older state for a moment; a run is not ended for that.
            std::thread::sleep(LOOK);
        }
        Err(RunFolderError::Gone { path: self.directory.clone() })
    }

    /// Writes the configuration of this start, and keeps that of an earlier one with other settings
    /// as `config.1.toml` and so on.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn record_config(&self, text: &str) -> Result<(), RunFolderError> {
        if !self.may_write || self.lock.is_none() {
            return Ok(());
        }
        let path = self.directory.join(Self::CONFIG);
        let kept = write_anew(&path, text).map_err(|source| RunFolderError::Io {
            action: "write",
            path,
            source,
        })?;
        if let Some(kept) = kept {
            tracing::info!(kept = %kept.display(), "the settings differ from those of the last start");
        }
        Ok(())
    }
}

/// Lets rank 0 take the lock, and everyone know how it went.
fn agree(
    directory: &Path,
    ctx: &RankContext,
) -> Result<Result<Option<FolderLock>, RunFolderError>, CommError> {
    let taken = (ctx.rank() == 0).then(|| FolderLock::take(directory));
    let verdict = taken.as_ref().map(|taken| match taken {
        Ok(_) => Verdict::Taken,
        Err(RunFolderError::InUse { holder, .. }) => Verdict::InUse(holder.clone()),
        Err(error) => Verdict::Failed(in_full(error)),
    });
    let verdict = verdict.map(|verdict| {
        serde_json::to_string(&verdict).expect("numbers and text have a form in JSON")
    });
    let heard = from_rank_zero(&ctx.world_group(), verdict)?;
    if let Some(taken) = taken {
        return Ok(taken.map(Some));
    }
    Ok(match serde_json::from_str(&heard) {
        Ok(Verdict::Taken) => Ok(None),
        Ok(Verdict::InUse(holder)) => {
            Err(RunFolderError::InUse { path: directory.to_owned(), holder })
        }
        Ok(Verdict::Failed(reason)) => Err(RunFolderError::RankZero { reason }),
        Err(error) => Err(RunFolderError::RankZero { reason: error.to_string() }),
    })
}

/// Brings a text of rank 0 to every rank.
fn from_rank_zero(group: &ProcessGroup, text: Option<String>) -> Result<String, CommError> {
    let mut bytes = text.map(String::into_bytes).unwrap_or_default();
    let mut len = [bytes.len() as f64];
    group.all_reduce_scalars(&mut len, ReduceOp::Max)?;
    let len = len[0] as usize;
    bytes.resize(len, b' ');
    let told = group.broadcast(TensorData::new(bytes, [len]), 0)?;
    Ok(String::from_utf8_lossy(told.as_bytes()).into_owned())
}

/// Joins an error and its causes in one line.
pub(crate) fn in_full(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;
    use std::thread;

    use super::*;
    use crate::comm::{Fabric, ProcessWorld, Reduction, ThreadFabric};
    use crate::world::World;

    /// A process of a launcher's world, whose messages go between threads.
    #[derive(Debug)]
    struct Process {
        world: World,
        fabric: Arc<ThreadFabric>,
    }

    impl ProcessWorld for Process {
        fn world(&self) -> World {
            self.world
        }
        fn num_threads(&self) -> usize {
            1
        }
        fn describe(&self) -> String {
            "threads".to_owned()
        }
        fn connect(&self, _: CommTimeouts, _: Reduction) -> Result<Arc<dyn Fabric>, CommError> {
            Ok(Arc::clone(&self.fabric) as Arc<dyn Fabric>)
        }
        fn end(&self, _: u8) {}
    }

    /// Lets as many processes claim a folder together.
    fn claims(directory: &Path, size: usize) -> Vec<Result<RunFolder, RunFolderError>> {
        let timeouts = CommTimeouts::uniform(Duration::from_mins(1));
        let fabric = ThreadFabric::new(size, timeouts);
        thread::scope(|scope| {
            let claim = |rank| {
                let process =
                    Process { world: World::thread(rank, size), fabric: Arc::clone(&fabric) };
                let ranks = Ranks::Process(Arc::new(process), Reduction::MemberOrder);
                scope.spawn(move || RunFolder::claim(directory, &ranks, timeouts))
            };
            let claims: Vec<_> = (0..size).map(claim).collect();
            claims.into_iter().map(|claim| claim.join().expect("no panic")).collect()
        })
    }

    /// What every one of them says, which must be the same.
    fn refusals(claims: Vec<Result<RunFolder, RunFolderError>>) -> String {
        let texts: Vec<_> =
            claims.into_iter().map(|claim| in_full(&claim.expect_err("a refusal"))).collect();
        assert!(texts.iter().all(|text| text.contains(&texts[0])), "{texts:?}");
        texts[0].clone()
    }

    #[test]
    fn all_processes_hear_whether_rank_zero_has_the_folder() {
        let folder = tempfile::tempdir().expect("a folder");
        let directory = folder.path().join("run");
        let held = claims(&directory, 3);
        assert!(held.iter().all(Result::is_ok), "{held:?}");
        let text = refusals(claims(&directory, 3));
        assert!(
            text.contains(&format!("in use by process {} on host", std::process::id())),
            "{text}"
        );
        drop(held);
        assert!(claims(&directory, 2).iter().all(Result::is_ok));

        fs::write(folder.path().join("file"), "").expect("the folder is writable");
        let text = refusals(claims(&folder.path().join("file/run"), 3));
        assert!(text.contains("cannot make the run folder"), "{text}");
    }

    #[test]
    fn a_folder_has_one_owner_and_notices_when_it_is_gone() {
        let folder = tempfile::tempdir().expect("a folder");
        let directory = folder.path().join("run");
        let timeouts = CommTimeouts::default();
        let claim = |directory: &Path| RunFolder::claim(directory, &Ranks::Threads(2), timeouts);
        let first = claim(&directory).expect("nobody has it");
        let error = claim(&folder.path().join("run/../run")).expect_err("it is the same folder");
        let RunFolderError::InUse { holder: Some(holder), .. } = error else { panic!("{error}") };
        assert_eq!((holder.process, holder.host), (std::process::id(), crate::world::host_name()));
        assert!(holder.started.ends_with('Z') && holder.started.len() == 20, "{}", holder.started);
        first.check().expect("it is there");

        // Renamed away, and taken by another run: neither disturbs the other.
        fs::rename(&directory, folder.path().join("elsewhere")).expect("the folder is writable");
        assert!(matches!(first.check(), Err(RunFolderError::Gone { .. })));
        let second = claim(&directory).expect("a new folder");
        assert!(matches!(first.check(), Err(RunFolderError::Gone { .. })));
        second.check().expect("it is there");
        assert!(claim(&folder.path().join("elsewhere")).is_err(), "the lock went with the folder");
    }

    #[test]
    fn what_a_dead_process_left_is_no_obstacle() {
        let folder = tempfile::tempdir().expect("a folder");
        let stale = "process = 1\nhost = \"elsewhere\"\nstarted = \"2020-01-01T00:00:00Z\"\n";
        for text in [stale, "", "no such thing"] {
            fs::write(folder.path().join("run.lock"), text).expect("the folder is writable");
            let claim =
                RunFolder::claim(folder.path(), &Ranks::Threads(1), CommTimeouts::default());
            claim.expect("the lock is free");
        }
    }
}
