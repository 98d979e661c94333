//! Log lines: rank 0 on the console, every rank in its own file.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use tracing_subscriber::filter::{FilterFn, LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use crate::callbacks::Terminal;
use crate::metrics::Trace;
use crate::world::{env, rank_of_thread};

/// Starts logging. `DREAM_TRAIN_LOG` chooses what is logged, in the syntax of `tracing-subscriber`;
/// by default warnings and the trainer's own notes.
///
/// Thread ranks are told apart by the name of their thread. Only rank 0 and the main thread reach
/// the console; with `directory`, every rank also writes `rank-N.log` there. `trace` gets all spans
/// of the trainer, whatever is logged.
///
/// # Errors
///
/// The log files cannot be made.
pub(crate) fn start(
    terminal: &Terminal,
    directory: Option<(&Path, usize)>,
    is_verbose: bool,
    trace: Option<Trace>,
) -> io::Result<()> {
    let default = if is_verbose { "warn,dream_trainer=debug" } else { "warn,dream_trainer=info" };
    let filter =
        || EnvFilter::new(env::variable("DREAM_TRAIN_LOG").unwrap_or_else(|| default.into()));
    let console_terminal = terminal.clone();
    let console = fmt::layer()
        .with_writer(move || ConsoleWriter { terminal: console_terminal.clone(), line: Vec::new() })
        .without_time()
        .with_target(false)
        .with_ansi(terminal.is_colored())
        .with_filter(FilterFn::new(|_| rank_of_thread().is_none_or(|rank| rank == 0)))
        .with_filter(filter());
    let files = directory
        .map(|(directory, world_size)| RankFiles::create(directory, world_size))
        .transpose()?;
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
        let text = String::from_utf8_lossy(&self.line);
        if !text.trim_end().is_empty() {
            self.terminal.line(text.trim_end());
        }
    }
}

#[derive(Clone)]
struct RankFiles(Arc<[Mutex<File>]>);

impl RankFiles {
    fn create(directory: &Path, world_size: usize) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let open = |rank| {
            File::options()
                .create(true)
                .append(true)
                .open(directory.join(format!("rank-{rank}.log")))
        };
        Ok(Self((0..world_size).map(|rank| open(rank).map(Mutex::new)).collect::<io::Result<_>>()?))
    }

    fn file(&self) -> Option<MutexGuard<'_, File>> {
        self.0.get(rank_of_thread().unwrap_or(0))?.lock().ok()
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
