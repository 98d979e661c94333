//! Log lines: rank 0 on the console, every rank in its own file.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::{Level, Metadata};
use tracing_subscriber::filter::{FilterFn, LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use super::{Exit, Failure};
use crate::callbacks::{Terminal, Verbosity};
use crate::comm::Ranks;
use crate::metrics::Trace;
use crate::world::{env, rank_of_thread};

/// What is logged where nobody chooses: warnings, and the trainer's own notes.
const NOTES: &str = "warn,dream_trainer=info";
/// What the console shows of it with `--verbose`.
const DETAILS: &str = "warn,dream_trainer=debug";

/// What is logged: `DREAM_TRAIN_LOG`, in the syntax of `tracing-subscriber`, or else the usual.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filter(Option<String>);

impl Filter {
    /// Reads `DREAM_TRAIN_LOG`.
    ///
    /// # Errors
    ///
    /// It is no filter.
    pub(crate) fn from_environment() -> Result<Self, Failure> {
        Self::parse(env::variable(env::LOG_VARIABLE))
    }

    fn parse(text: Option<String>) -> Result<Self, Failure> {
        let Some(text) = text else { return Ok(Self(None)) };
        let refused = |what: String| Failure {
            text: format!(
                "error: `DREAM_TRAIN_LOG={text}` is no log filter: {what}\n  help: a level (off, error, warn, info, debug, trace), or several parts as in `warn,dream_trainer=debug`"
            ),
            exit: Exit::Usage,
        };
        // A part without a level names a target and shows all of it, which is a misspelt level far
        // more often than a wish.
        let is_word = |part: &&str| {
            part.ends_with('=')
                || !part.contains(['=', '[']) && part.parse::<LevelFilter>().is_err()
        };
        if let Some(word) = text.split(',').map(str::trim).find(is_word) {
            return Err(refused(format!(
                "`{word}` names no level; a target has one, as in `target=level`"
            )));
        }
        EnvFilter::builder().parse(&text).map_err(|error| refused(error.to_string()))?;
        Ok(Self(Some(text)))
    }

    fn or(&self, usual: &str) -> EnvFilter {
        EnvFilter::new(self.0.as_deref().unwrap_or(usual))
    }
}

/// Starts logging.
///
/// Ranks are told apart by the name of their thread. Where rank 0 is in this process, only it and
/// the main thread reach the console; another process only shows warnings, under the name of its
/// rank. With `directory`, every rank also writes `rank-N.log` there, which `verbosity` does not
/// change. `trace` gets all spans of the trainer, whatever is logged.
///
/// # Errors
///
/// The log files cannot be made.
pub(crate) fn start(
    filter: &Filter,
    terminal: &Terminal,
    directory: Option<&Path>,
    ranks: &Ranks,
    verbosity: Verbosity,
    trace: Option<Trace>,
) -> io::Result<()> {
    let console_terminal = terminal.clone();
    let here: Vec<usize> = ranks.here().iter().map(|world| world.rank).collect();
    let speaker = here[0];
    let prefix = if speaker == 0 { String::new() } else { format!("rank {speaker}: ") };
    let writer = move || ConsoleWriter {
        terminal: console_terminal.clone(),
        line: prefix.clone().into_bytes(),
        prefix: prefix.len(),
    };
    let only_warnings = speaker != 0 || verbosity == Verbosity::Quiet;
    let is_shown = move |meta: &Metadata<'_>| {
        rank_of_thread().is_none_or(|rank| rank == speaker)
            && (!only_warnings || *meta.level() <= Level::WARN)
    };
    let usual = if verbosity == Verbosity::Verbose { DETAILS } else { NOTES };
    // Neither writer fails; what the layers would print of errors could.
    let console = fmt::layer()
        .with_writer(writer)
        .without_time()
        .with_target(false)
        .with_ansi(terminal.is_colored())
        .log_internal_errors(false)
        .with_filter(FilterFn::new(is_shown))
        .with_filter(filter.or(usual));
    let files = directory.map(|directory| RankFiles::create(directory, &here)).transpose()?;
    let files = files.map(|files| {
        fmt::layer()
            .with_writer(move || files.clone())
            .with_ansi(false)
            .log_internal_errors(false)
            .with_filter(filter.or(NOTES))
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
struct RankFiles(Arc<[(usize, Mutex<RankFile>)]>);

/// A log file that drops what cannot be written, and counts it.
struct RankFile<W = File> {
    file: W,
    dropped: u64,
}

impl RankFiles {
    fn create(directory: &Path, ranks: &[usize]) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let open = |rank: &usize| {
            let path = directory.join(format!("rank-{rank}.log"));
            let file = File::options().create(true).append(true).open(path)?;
            Ok((*rank, Mutex::new(RankFile { file, dropped: 0 })))
        };
        Ok(Self(ranks.iter().map(open).collect::<io::Result<_>>()?))
    }

    fn put(&self, line: &[u8]) {
        // What is on no rank's thread goes with the first rank of the process.
        let rank = rank_of_thread();
        let of_rank = self.0.iter().find(|(of, _)| Some(*of) == rank);
        if let Some((_, file)) = of_rank.or(self.0.first()) {
            file.lock().unwrap_or_else(PoisonError::into_inner).put(line);
        }
    }
}

impl<W: Write> RankFile<W> {
    fn put(&mut self, line: &[u8]) {
        let lost = match self.dropped {
            0 => Vec::new(),
            // The line break ends what was left of a line when the disk was full.
            count => format!("\n({count} lines are missing here: they could not be written)\n")
                .into_bytes(),
        };
        // One write, so that lines of several processes do not mix.
        match self.file.write_all(&[&lost, line].concat()) {
            Ok(()) => self.dropped = 0,
            Err(_) => self.dropped += 1,
        }
    }
}

/// A line the subscriber has formatted comes in one write.
impl Write for RankFiles {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.put(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_filter_is_refused_and_quoted() {
        for text in ["inof", "warn,dream_trainer=dbug", "info,verbose", "a=b=c", "dream_trainer="] {
            let failure = Filter::parse(Some(text.into())).expect_err(text);
            assert!(
                failure.text.contains(&format!("`DREAM_TRAIN_LOG={text}`")),
                "{}",
                failure.text
            );
            assert_eq!(failure.exit as u8, 2, "{text}");
        }
        for text in ["info", "OFF", "warn,dream_trainer=debug", "off,[step]=trace", "0", "wgpu=off"]
        {
            assert_eq!(Filter::parse(Some(text.into())).expect(text), Filter(Some(text.into())));
        }
    }

    #[test]
    fn a_full_disk_drops_lines_and_counts_them() {
        struct Disk(Vec<u8>, usize);
        impl Write for Disk {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let count = bytes.len().min(self.1);
                self.1 -= count;
                self.0.extend_from_slice(&bytes[..count]);
                if count == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(count) }
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut file = RankFile { file: Disk(Vec::new(), 10), dropped: 0 };
        for line in ["line 1\n", "line 2\n", "line 3\n"] {
            file.put(line.as_bytes());
        }
        file.file.1 = 1000;
        file.put(b"line 4\n");
        file.put(b"line 5\n");
        let text = String::from_utf8(file.file.0).expect("text");
        let note = "(2 lines are missing here: they could not be written)";
        assert_eq!(text, format!("line 1\nlin\n{note}\nline 4\nline 5\n"));
    }
}
