//! What lines and progress bars share.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};

use indicatif::{MultiProgress, ProgressDrawTarget};

use super::screen;
use super::standard::StandardStream;
use crate::world::env;

/// A handle to the place where a run shows itself: lines go to a writer, bars to standard error.
///
/// Every line clears the bars first and lets them draw again behind it, so neither garbles the
/// other. A console that takes no lines is warned of once and does not end the run: after a
/// [`ErrorKind::WouldBlock`] the next line is tried again, after any other error none.
#[derive(Clone)]
pub struct Terminal {
    lines: Arc<Mutex<Lines>>,
    bars: MultiProgress,
    colored: bool,
}

struct Lines {
    writer: Box<dyn Write + Send>,
    has_warned: bool,
    is_gone: bool,
}

impl Terminal {
    /// Returns a terminal that prints lines to `writer` and draws no bars. Whoever prints waits for
    /// `writer`.
    pub fn new(writer: Box<dyn Write + Send>) -> Self {
        let lines = Lines { writer, has_warned: false, is_gone: false };
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::hidden());
        Self { lines: Arc::new(Mutex::new(lines)), bars, colored: false }
    }

    /// Returns a terminal that prints lines to standard output, in color where that is wanted, and
    /// draws no bars.
    ///
    /// Whoever prints never waits: a thread of the process writes, and lines are left out, counted,
    /// while nobody reads.
    ///
    /// # Errors
    ///
    /// The thread cannot be started.
    pub fn standard() -> io::Result<Self> {
        let colored = io::stdout().is_terminal() && !env::wants_plain_output();
        Ok(Self::new(Box::new(StandardStream::out()?)).colored(colored))
    }

    /// Turns colors in lines on or off.
    #[must_use]
    pub fn colored(mut self, colored: bool) -> Self {
        self.colored = colored;
        self
    }

    /// Draws bars on standard error if that is a terminal that can show them. Whoever draws never
    /// waits.
    #[must_use]
    pub fn with_bars(self) -> Self {
        match screen::draw_target() {
            Some(target) => self.with_bars_on(target),
            None => self,
        }
    }

    /// Draws bars on a given target, whose drawing must not fail: `indicatif` takes errors for bugs.
    #[must_use]
    pub fn with_bars_on(self, target: ProgressDrawTarget) -> Self {
        self.bars.set_draw_target(target);
        self
    }

    /// Tells whether lines may have colors.
    pub fn is_colored(&self) -> bool {
        self.colored
    }

    /// Tells whether bars are seen.
    pub fn shows_bars(&self) -> bool {
        !self.bars.is_hidden()
    }

    /// Prints a line, or several with line breaks between them.
    pub fn line(&self, text: &str) {
        let printed =
            self.suspend(|| self.lines.lock().unwrap_or_else(PoisonError::into_inner).print(text));
        // Logging may print here too, so the warning comes when no lock is held any more.
        if let Err(error) = printed {
            tracing::warn!(%error, "the console cannot be written to, training goes on");
        }
    }

    /// Clears the bars, runs `print` and draws them again; for whatever else prints, such as log
    /// lines.
    ///
    /// `print` must not use this terminal, nor log anything.
    pub fn suspend<R>(&self, print: impl FnOnce() -> R) -> R {
        self.bars.suspend(print)
    }

    /// Adds a bar below the others.
    pub(crate) fn add_bar(&self, bar: indicatif::ProgressBar) -> indicatif::ProgressBar {
        self.bars.add(bar)
    }
}

impl Lines {
    /// Prints a line. Only the first error is returned.
    fn print(&mut self, text: &str) -> io::Result<()> {
        if self.is_gone {
            return Ok(());
        }
        // One write, so that a writer can leave the line out as a whole.
        let line = format!("{text}\n");
        let printed = self.writer.write_all(line.as_bytes()).and_then(|()| self.writer.flush());
        let Err(error) = printed else { return Ok(()) };
        self.is_gone = error.kind() != ErrorKind::WouldBlock;
        if std::mem::replace(&mut self.has_warned, true) { Ok(()) } else { Err(error) }
    }
}
