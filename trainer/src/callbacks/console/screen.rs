//! Where bars are drawn: a terminal on standard error that nobody waits for.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};

use indicatif::{ProgressDrawTarget, TermLike};

use super::standard::StandardStream;
use crate::world::env;

/// Draws per second.
const HZ: u8 = 20;
/// Columns below which a bar would only fill the screen with its pieces.
const FEWEST_COLUMNS: u16 = 40;
/// Columns of a terminal that does not tell.
const USUAL_COLUMNS: u16 = 80;

/// Collects one drawing after the other, and sends each off whole.
struct Screen {
    stream: StandardStream,
    drawing: Mutex<Vec<u8>>,
}

/// Returns the terminal on standard error, or nothing if there is none on which bars can be drawn.
pub(super) fn draw_target() -> Option<ProgressDrawTarget> {
    if !io::stderr().is_terminal() || env::wants_plain_output() || columns() < FEWEST_COLUMNS {
        return None;
    }
    let stream = StandardStream::err().ok()?.for_drawings();
    let screen = Screen { stream, drawing: Mutex::default() };
    Some(ProgressDrawTarget::term_like_with_hz(Box::new(screen), HZ))
}

fn columns() -> u16 {
    terminal_size::terminal_size_of(io::stderr()).map_or(USUAL_COLUMNS, |(width, _)| width.0)
}

impl Screen {
    fn put(&self, text: &str) {
        let mut drawing = self.drawing.lock().unwrap_or_else(PoisonError::into_inner);
        drawing.extend_from_slice(text.as_bytes());
    }

    fn go(&self, n: usize, direction: char) {
        if n > 0 {
            self.put(&format!("\x1b[{n}{direction}"));
        }
    }
}

impl std::fmt::Debug for Screen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Screen").finish_non_exhaustive()
    }
}

impl TermLike for Screen {
    fn width(&self) -> u16 {
        columns().max(1)
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        self.go(n, 'A');
        Ok(())
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        self.go(n, 'B');
        Ok(())
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        self.go(n, 'C');
        Ok(())
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        self.go(n, 'D');
        Ok(())
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.put(&format!("{text}\n"));
        Ok(())
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.put(text);
        Ok(())
    }

    fn clear_line(&self) -> io::Result<()> {
        self.put("\r\x1b[2K");
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        let mut drawing = self.drawing.lock().unwrap_or_else(PoisonError::into_inner);
        if drawing.is_empty() {
            return Ok(());
        }
        self.stream.clone().write_all(&std::mem::take(&mut *drawing))
    }
}
