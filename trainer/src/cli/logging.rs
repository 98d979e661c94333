//! Log lines: rank 0 on the console, every rank in its own file.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use tracing::{Level, Metadata};
use tracing_subscriber::filter::{FilterFn, LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use crate::callbacks::Terminal;
use crate::comm::Ranks;
use crate::metrics::Trace;
use crate::world::{env, rank_of_thread};

/// Starts logging. `DREAM_TRAIN_LOG` chooses what is logged, in the syntax of `tracing-subscriber`;
/// by default warnings and the trainer's own notes.
///
/// Ranks are told apart by the name of their thread. Where rank 0 is in this process, only it and
/// the main thread reach the console; another process only shows warnings, under the name of its
/// rank. With `directory`, every rank also writes `rank-N.log` there. `trace` gets all spans of the
/// trainer, whatever is logged.
///
/// # Errors
///
/// The log files cannot be made.
pub(crate) fn start(
    terminal: &Terminal,
    directory: Option<&Path>,
    ranks: &Ranks,
    is_verbose: bool,
    trace: Option<Trace>,
) -> io::Result<()> {
    let default = if is_verbose { "warn,dream_trainer=debug" } else { "warn,dream_trainer=info" };
    let filter =
        || EnvFilter::new(env::variable("DREAM_TRAIN_LOG").unwrap_or_else(|| default.into()));
    let console_terminal = terminal.clone();
    let here: Vec<usize> = ranks.here().iter().map(|world| world.rank).collect();
    let speaker = here[0];
    let prefix = if speaker == 0 { String::new() } else { format!("rank {speaker}: ") };
    let writer = move || ConsoleWriter {
        terminal: console_terminal.clone(),
        line: prefix.clone().into_bytes(),
        prefix: prefix.len(),
    };
    let is_shown = move |meta: &Metadata<'_>| {
        rank_of_thread().is_none_or(|rank| rank == speaker)
            && (speaker == 0 || *meta.level() <= Level::WARN)
    };
    let console = fmt::layer()
        .with_writer(writer)
        .without_time()
        .with_target(false)
        .with_ansi(terminal.is_colored())
        .with_filter(FilterFn::new(is_shown))
        .with_filter(filter());
    let files = directory.map(|directory| RankFiles::create(directory, &here)).transpose()?;
    let files = files.map(|files| {
        fmt::layer().with_writer(move || files.clone()).with_ansi(false).with_filter(filter())
    });
    // A second start in one process keeps the first subscriber, which is what embedding programs
    // expect.
    let spans = Targets::new().with_target("dream_trainer", LevelFilter::TRACE);
    let trace = trace.map(|trace| trace.with_filter(spans));
    let _ = tracing_subscriber::registry().with(console).with(files).with(trace).try_init();
    Ok(())
}

struct ConsoleWriter {
    terminal: Terminal,
    line: Vec<u8>,
    /// Bytes of `line` that name the rank.
    prefix: usize,
}

impl Write for ConsoleWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for ConsoleWriter {
    fn drop(&mut self) {
        if !self.line[self.prefix..].trim_ascii().is_empty() {
            self.terminal.line(String::from_utf8_lossy(&self.line).trim_end());
        }
    }
}

#[derive(Clone)]
struct RankFiles(Arc<[(usize, Mutex<File>)]>);

impl RankFiles {
    fn create(directory: &Path, ranks: &[usize]) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let open = |rank: &usize| {
            let path = directory.join(format!("rank-{rank}.log"));
            let file = File::options().create(true).append(true).open(path)?;
            Ok((*rank, Mutex::new(file)))
        };
        Ok(Self(ranks.iter().map(open).collect::<io::Result<_>>()?))
    }

    fn file(&self) -> Option<MutexGuard<'_, File>> {
        // What is on no rank's thread goes with the first rank of the process.
        let rank = rank_of_thread().unwrap_or(self.0.first()?.0);
        self.0.iter().find(|(of, _)| *of == rank)?.1.lock().ok()
    }
}

/// A line the subscriber has formatted comes in one write.
impl Write for RankFiles {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file().map_or(Ok(bytes.len()), |mut file| file.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file().map_or(Ok(()), |mut file| file.flush())
    }
}
