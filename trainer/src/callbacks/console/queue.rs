//! Bytes on their way to the standard streams: a queue of limited size, and the loop that empties it.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Most bytes of one write: small enough to see that a slow reader still reads.
const PIECE_BYTES: usize = 4096;
/// Pause before a stream that was made non-blocking by another process is tried again.
const RETRY: Duration = Duration::from_millis(20);

/// One of the two standard streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// What is in a chunk, which decides what it means to leave it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// Lines, which are counted when they are left out.
    Lines,
    /// A drawing, which the next one replaces.
    Drawing,
}

/// Bytes that several threads put in and one takes out and writes.
pub(crate) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    limit: usize,
}

#[derive(Default)]
struct State {
    chunks: VecDeque<Chunk>,
    bytes: usize,
    is_writing: bool,
    /// Writes that have returned, by which a slow reader differs from one that does not read.
    written: u64,
    streams: [StreamState; 2],
}

#[derive(Default)]
struct StreamState {
    is_gone: bool,
    /// Lines that were left out since the last chunk was accepted.
    missing: u64,
}

struct Chunk {
    stream: Stream,
    content: Content,
    bytes: Vec<u8>,
    /// Lines that were left out before it.
    missing: u64,
}

impl Chunk {
    fn lines(&self) -> u64 {
        match self.content {
            Content::Lines => lines(&self.bytes) + self.missing,
            Content::Drawing => 0,
        }
    }
}

fn lines(bytes: &[u8]) -> u64 {
    bytes.split(|byte| *byte == b'\n').count() as u64 - 1
}

impl Queue {
    /// Returns a queue that takes chunks as long as it holds fewer than `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), limit }
    }

    /// Puts bytes in without waiting. What is for a stream that is gone is dropped.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::WouldBlock`] if lines were left out because the queue is full.
    pub(crate) fn push(&self, stream: Stream, content: Content, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.lock();
        let is_full = state.bytes >= self.limit;
        let of = &mut state.streams[stream as usize];
        if of.is_gone || (is_full && content == Content::Drawing) {
            return Ok(());
        }
        if is_full {
            of.missing += lines(bytes);
            return Err(io::Error::new(ErrorKind::WouldBlock, "nothing reads it"));
        }
        let missing = if content == Content::Lines { std::mem::take(&mut of.missing) } else { 0 };
        state.bytes += bytes.len();
        state.chunks.push_back(Chunk { stream, content, bytes: bytes.to_vec(), missing });
        self.changed.notify_all();
        Ok(())
    }

    /// Waits until all is written, but for a stream that takes nothing for `patience` only so long,
    /// and never longer than `limit`. Returns how many lines are left.
    pub(crate) fn finish(&self, patience: Duration, limit: Duration) -> u64 {
        let begun = Instant::now();
        let mut state = self.lock();
        for stream in [Stream::Out, Stream::Err] {
            let of = &mut state.streams[stream as usize];
            if of.missing > 0 && !of.is_gone {
                let missing = std::mem::take(&mut of.missing);
                let (content, bytes) = (Content::Lines, Vec::new());
                state.chunks.push_back(Chunk { stream, content, bytes, missing });
            }
        }
        self.changed.notify_all();
        let (mut seen, mut since) = (state.written, Instant::now());
        while state.is_writing || !state.chunks.is_empty() {
            if state.written != seen {
                (seen, since) = (state.written, Instant::now());
            }
            let wait =
                patience.saturating_sub(since.elapsed()).min(limit.saturating_sub(begun.elapsed()));
            if wait.is_zero() {
                break;
            }
            let waited = self.changed.wait_timeout(state, wait);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.chunks.iter().map(Chunk::lines).sum()
    }

    /// Writes what comes, for ever. The first write that fails is warned of, under no lock.
    pub(crate) fn write_to(&self, mut streams: [Box<dyn Write + Send>; 2]) {
        let mut has_warned = false;
        loop {
            let chunk = self.next();
            let written = self.write(streams[chunk.stream as usize].as_mut(), &chunk);
            if let Err(error) = &written
                && !std::mem::replace(&mut has_warned, true)
            {
                tracing::warn!(%error, "the console cannot be written to, training goes on");
            }
            self.done(&chunk, written.err().as_ref());
        }
    }

    fn next(&self) -> Chunk {
        let mut state = self.lock();
        loop {
            if let Some(chunk) = state.chunks.pop_front() {
                state.bytes -= chunk.bytes.len();
                state.is_writing = true;
                return chunk;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn write(&self, stream: &mut dyn Write, chunk: &Chunk) -> io::Result<()> {
        if self.lock().streams[chunk.stream as usize].is_gone {
            return Ok(());
        }
        let note = match chunk.missing {
            0 => String::new(),
            1 => "(1 line is missing here: the console did not take it)\n".to_owned(),
            many => format!("({many} lines are missing here: the console did not take them)\n"),
        };
        for piece in note.as_bytes().chunks(PIECE_BYTES).chain(chunk.bytes.chunks(PIECE_BYTES)) {
            write_piece(stream, piece)?;
            self.lock().written += 1;
            self.changed.notify_all();
        }
        stream.flush()
    }

    /// Takes down how a chunk went. A full disk may have room again; any other error is for good.
    fn done(&self, chunk: &Chunk, error: Option<&io::Error>) {
        let mut state = self.lock();
        if let Some(error) = error {
            let of = &mut state.streams[chunk.stream as usize];
            of.is_gone = !matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
            of.missing += chunk.lines();
        }
        state.is_writing = false;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write_piece(stream: &mut dyn Write, mut piece: &[u8]) -> io::Result<()> {
    while !piece.is_empty() {
        match stream.write(piece) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => piece = &piece[count..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(RETRY),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};

    use super::*;

    const SHORT: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_mins(1);

    /// A reader that the test lets read, fail or wait, chunk by chunk.
    struct Reader {
        allowed: mpsc::Receiver<io::Result<()>>,
        read: Arc<Mutex<String>>,
    }

    impl Write for Reader {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.allowed.recv().unwrap_or(Ok(()))?;
            self.read.lock().expect("nobody panics").push_str(&String::from_utf8_lossy(bytes));
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn queue(limit: usize) -> (Arc<Queue>, mpsc::Sender<io::Result<()>>, Arc<Mutex<String>>) {
        let (allow, allowed) = mpsc::channel();
        let (queue, read) = (Arc::new(Queue::new(limit)), Arc::<Mutex<String>>::default());
        let out = Reader { allowed, read: Arc::clone(&read) };
        let writing = Arc::clone(&queue);
        thread::spawn(move || writing.write_to([Box::new(out), Box::new(io::sink())]));
        (queue, allow, read)
    }

    fn line(queue: &Queue, number: usize) -> io::Result<()> {
        queue.push(Stream::Out, Content::Lines, format!("line {number}\n").as_bytes())
    }

    #[test]
    fn a_reader_that_does_not_read_blocks_nobody_and_learns_what_is_missing() {
        let (queue, allow, read) = queue(20);
        line(&queue, 0).expect("there is room");
        while !queue.lock().is_writing {
            thread::yield_now();
        }
        let lost = (1..50).filter(|number| line(&queue, *number).is_err()).count();
        assert_eq!(lost, 46, "one is being written, and three fill the queue");
        assert_eq!(queue.finish(SHORT, LONG), 50 - 1);
        drop(allow);
        assert_eq!(queue.finish(LONG, LONG), 0);
        line(&queue, 50).expect("there is room again");
        assert_eq!(queue.finish(LONG, LONG), 0);
        let text = read.lock().expect("nobody panics").clone();
        let kept = 50 - lost;
        let numbers =
            (0..kept).map(|number| format!("line {number}\n")).collect::<Vec<_>>().concat();
        let note = format!("({lost} lines are missing here: the console did not take them)\n");
        assert_eq!(text, format!("{numbers}{note}line 50\n"));
    }

    #[test]
    fn a_full_disk_may_have_room_again() {
        let (queue, allow, read) = queue(1000);
        for error in [ErrorKind::StorageFull, ErrorKind::QuotaExceeded] {
            allow.send(Err(error.into())).expect("the reader is there");
            line(&queue, 1).expect("there is room in the queue");
            queue.finish(SHORT, LONG);
        }
        drop(allow);
        line(&queue, 3).expect("there is room in the queue");
        assert_eq!(queue.finish(LONG, LONG), 0);
        let text = read.lock().expect("nobody panics").clone();
        assert!(text.contains("line 3\n") && text.contains("missing here"), "{text}");
    }

    #[test]
    fn a_stream_that_is_gone_takes_no_more() {
        let (queue, allow, read) = queue(1000);
        allow.send(Err(ErrorKind::BrokenPipe.into())).expect("the reader is there");
        drop(allow);
        for number in 0..3 {
            line(&queue, number).expect("it is dropped quietly");
            assert_eq!(queue.finish(LONG, LONG), 0);
        }
        assert_eq!(*read.lock().expect("nobody panics"), "");
    }

    #[test]
    fn a_slow_reader_is_waited_for_and_one_that_stopped_only_for_so_long() {
        let (queue, allow, read) = queue(1 << 20);
        let long = vec![b'x'; 8 * PIECE_BYTES];
        queue.push(Stream::Out, Content::Lines, &long).expect("there is room");
        let feed = thread::spawn(move || {
            for _ in 0..8 {
                thread::sleep(SHORT);
                allow.send(Ok(())).expect("the reader is there");
            }
            allow
        });
        queue.finish(SHORT * 20, LONG);
        assert_eq!(read.lock().expect("nobody panics").len(), 8 * PIECE_BYTES);
        let _allow = feed.join().expect("it does not panic");
        line(&queue, 0).expect("there is room");
        queue.finish(SHORT, LONG);
        queue.finish(LONG, SHORT);
    }
}
