//! The console that lines and progress bars share.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use indicatif::{MultiProgress, ProgressDrawTarget};

/// A handle to the place where a run shows itself: lines go to a writer, bars to standard error.
///
/// Every line clears the bars first and lets them draw again behind it, so neither garbles the
/// other. A console that goes away, such as a closed pipe, is warned of once and does not end the
/// run.
#[derive(Clone)]
pub struct Terminal {
    lines: Arc<Mutex<Lines>>,
    bars: MultiProgress,
    colored: bool,
}

struct Lines {
    writer: Box<dyn Write + Send>,
    failed: bool,
}

impl Terminal {
    /// Returns a terminal that prints lines to `writer` and draws no bars.
    pub fn new(writer: Box<dyn Write + Send>) -> Self {
        let lines = Arc::new(Mutex::new(Lines { writer, failed: false }));
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::hidden());
        Self { lines, bars, colored: false }
    }

    /// Turns colors in lines on or off.
    #[must_use]
    pub fn colored(mut self, colored: bool) -> Self {
        self.colored = colored;
        self
    }

    /// Draws bars on standard error if that is a terminal.
    #[must_use]
    pub fn with_bars(self) -> Self {
        self.with_bars_on(ProgressDrawTarget::stderr())
    }

    /// Draws bars on a given target.
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
        self.suspend(|| {
            let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = lines.print(text) {
                tracing::warn!(%error, "the console cannot be written to, training goes on");
            }
        });
    }

    /// Clears the bars, runs `print` and draws them again; for whatever else prints, such as log
    /// lines.
    ///
    /// `print` must not use this terminal.
    pub fn suspend<R>(&self, print: impl FnOnce() -> R) -> R {
        self.bars.suspend(print)
    }

    /// Adds a bar below the others.
    pub(crate) fn add_bar(&self, bar: indicatif::ProgressBar) -> indicatif::ProgressBar {
        self.bars.add(bar)
    }
}

impl Lines {
    fn print(&mut self, text: &str) -> io::Result<()> {
        if self.failed {
            return Ok(());
        }
        let result = writeln!(self.writer, "{text}").and_then(|()| self.writer.flush());
        self.failed = result.is_err();
        result
    }
}
