//! What commands print, and how an error reaches the user.

use std::io::{self, ErrorKind, LineWriter, Write};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::callbacks::StandardStream;

/// How long an error report waits for a reader of standard error that does not read.
const PATIENCE: Duration = Duration::from_secs(1);

/// Standard output of a command. It waits for whoever reads.
///
/// A command goes on after the first error, and what it prints from then on is dropped: the error is
/// dealt with in one place, at the end.
pub(crate) struct Output<W: Write> {
    to: LineWriter<W>,
    error: Option<io::Error>,
}

impl<W: Write> Output<W> {
    pub(crate) fn new(to: W) -> Self {
        Self { to: LineWriter::new(to), error: None }
    }

    /// Prints what is left. That the reader has left, as `head` does, is no error.
    ///
    /// # Errors
    ///
    /// The first one, such as a full disk.
    pub(crate) fn end(mut self) -> io::Result<()> {
        self.keep(LineWriter::flush);
        match self.error {
            Some(error) if error.kind() != ErrorKind::BrokenPipe => Err(error),
            _ => Ok(()),
        }
    }

    fn keep(&mut self, print: impl FnOnce(&mut LineWriter<W>) -> io::Result<()>) {
        if self.error.is_none() {
            self.error = print(&mut self.to).err();
        }
    }
}

impl<W: Write> Write for Output<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.keep(|to| to.write_all(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.keep(LineWriter::flush);
        Ok(())
    }
}

/// Prints a line on standard error and waits for its reader, but not for long. Where nobody can be
/// told, nobody is.
pub(crate) fn tell(text: &str) {
    let line = format!("{}\n", text.trim_end());
    let (done, wait) = mpsc::channel();
    let print = move || {
        let _ = io::stderr().write_all(line.as_bytes());
        let _ = done.send(());
    };
    if thread::Builder::new().spawn(print).is_ok() {
        let _ = wait.recv_timeout(PATIENCE);
    }
}

/// Prints a line on standard error behind what the console still has to print, without waiting.
pub(crate) fn note(text: &str) {
    // A console that cannot be written to has nobody to be told.
    let _ = StandardStream::err().and_then(|mut to| to.write_all(format!("{text}\n").as_bytes()));
}

/// Makes panics print through the console, whose reader nobody waits for.
pub(crate) fn print_panics() {
    std::panic::set_hook(Box::new(|info| {
        let thread = thread::current();
        let name = thread.name().unwrap_or("<unnamed>");
        let trace = std::backtrace::Backtrace::capture();
        let trace = match trace.status() {
            std::backtrace::BacktraceStatus::Captured => format!("\n{trace}"),
            _ => String::new(),
        };
        note(&format!("thread `{name}`: {info}{trace}"));
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes some bytes and then fails.
    struct Failing(usize, ErrorKind);

    impl Write for Failing {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.0);
            self.0 -= count;
            if count == 0 { Err(self.1.into()) } else { Ok(count) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_left_is_no_error_and_a_full_disk_is() {
        for (kind, expected) in
            [(ErrorKind::BrokenPipe, None), (ErrorKind::StorageFull, Some(ErrorKind::StorageFull))]
        {
            let mut output = Output::new(Failing(10, kind));
            for _ in 0..3 {
                writeln!(output, "a line of text").expect("a command never sees the error");
            }
            assert_eq!(output.end().err().map(|error| error.kind()), expected);
        }
    }

    #[test]
    fn the_last_words_count_though_no_line_ends_them() {
        let mut output = Output::new(Failing(3, ErrorKind::StorageFull));
        write!(output, "words").expect("a command never sees the error");
        assert!(output.end().is_err());
    }
}
