//! The standard streams of this process.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::queue::{Content, Queue, Stream};

/// Bytes that wait for a slow reader before lines are left out.
const QUEUE_BYTES: usize = 256 << 10;
/// How long the end of the process waits for a reader that does not read.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long it waits for one that reads slowly.
const LONGEST: Duration = Duration::from_secs(10);

static QUEUE: Mutex<Option<Arc<Queue>>> = Mutex::new(None);

/// A writer to standard output or standard error that never waits: one thread of the process does
/// the writing. Each write is taken whole or, with [`io::ErrorKind::WouldBlock`], left out whole.
#[derive(Clone)]
pub(crate) struct StandardStream {
    queue: Arc<Queue>,
    stream: Stream,
    content: Content,
}

impl StandardStream {
    /// Returns standard output.
    ///
    /// # Errors
    ///
    /// The thread cannot be started.
    pub(crate) fn out() -> io::Result<Self> {
        Ok(Self { queue: queue()?, stream: Stream::Out, content: Content::Lines })
    }

    /// Returns standard error.
    ///
    /// # Errors
    ///
    /// The thread cannot be started.
    pub(crate) fn err() -> io::Result<Self> {
        Ok(Self { queue: queue()?, stream: Stream::Err, content: Content::Lines })
    }

    /// Takes drawings, of which one that is left out is no loss.
    pub(super) fn for_drawings(self) -> Self {
        Self { content: Content::Drawing, ..self }
    }
}

impl Write for StandardStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.queue.push(self.stream, self.content, bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Waits a short while until what was printed through [`StandardStream`]s is written. What a reader
/// does not take is left behind, with a warning.
pub(crate) fn finish_console() {
    let queue = QUEUE.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let left = queue.map_or(0, |queue| queue.finish(PATIENCE, LONGEST));
    if left > 0 {
        tracing::warn!("the console did not take the last {left} lines");
    }
}

/// Returns the queue of this process, whose thread starts with the first use.
fn queue() -> io::Result<Arc<Queue>> {
    let mut known = QUEUE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(queue) = &*known {
        return Ok(Arc::clone(queue));
    }
    let (queue, streams) = (Arc::new(Queue::new(QUEUE_BYTES)), streams()?);
    let writing = Arc::clone(&queue);
    thread::Builder::new().name("console".into()).spawn(move || writing.write_to(streams))?;
    Ok(Arc::clone(known.insert(queue)))
}

/// Opens both streams apart from `std`'s, whose locks a write that waits would hold.
#[cfg(unix)]
fn streams() -> io::Result<[Box<dyn Write + Send>; 2]> {
    use std::fs::File;
    use std::os::fd::AsFd;

    let out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let err = File::from(io::stderr().as_fd().try_clone_to_owned()?);
    Ok([Box::new(out), Box::new(err)])
}

/// Opens both streams.
#[cfg(not(unix))]
fn streams() -> io::Result<[Box<dyn Write + Send>; 2]> {
    Ok([Box::new(io::stdout()), Box::new(io::stderr())])
}
