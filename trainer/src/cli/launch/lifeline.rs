//! The pipe by which a run learns that its supervisor is gone.
//!
//! The supervisor holds one end as long as it lives; the operating system closes it however it ends,
//! by SIGKILL too. The other end is the standard input of the run, which `mpiexec` and `srun` pass
//! on to rank 0 at least, so this works through them as well.

use std::io::{self, ErrorKind, PipeReader, PipeWriter, Read, Write};
use std::thread;
use std::time::Duration;

use crate::cli::{Exit, Failure, abort};
use crate::train::Interrupt;

/// The argument that tells a run that its standard input is such a pipe.
pub(super) const ARGUMENT: &str = "--supervised";
/// What the supervisor says first: an input that ends before it comes from elsewhere, `/dev/null` for
/// instance, which launchers give to ranks other than 0.
const GREETING: &[u8] = b"supervised\n";
/// How long a run may take to finish a step and to save once its supervisor is gone.
const GRACE: Duration = Duration::from_mins(1);

/// Makes the pipe: the end of the run, and the end that the supervisor keeps.
pub(super) fn new() -> io::Result<(PipeReader, PipeWriter)> {
    let (end, mut lifeline) = io::pipe()?;
    // Before the run starts, so that it hears this even if the supervisor dies at once.
    lifeline.write_all(GREETING)?;
    Ok((end, lifeline))
}

/// Asks this run to end when its supervisor is gone, and ends the process if it has not done so after
/// a minute.
///
/// # Errors
///
/// The thread that listens cannot be started.
pub(crate) fn follow_supervisor(interrupt: &Interrupt) -> Result<(), Failure> {
    let interrupt = interrupt.clone();
    let listen = move || end_with(io::stdin(), GRACE, &interrupt, || abort());
    let started = thread::Builder::new().name("supervisor".to_owned()).spawn(listen);
    started.map(drop).map_err(|error| Failure::new(&error, Exit::Environment))
}

/// Waits for the end of the supervisor, asks the run to end, and makes it after a while.
fn end_with(input: impl Read, grace: Duration, interrupt: &Interrupt, abort: impl FnOnce()) {
    if is_lost(input) {
        interrupt.request();
        tracing::warn!("the supervisor of this run is gone: ending after this step");
        thread::sleep(grace);
        abort();
    }
}

/// Waits for the end of an input; returns whether a supervisor had been at its other end.
fn is_lost(mut input: impl Read) -> bool {
    let (mut buffer, mut was_greeted) = ([0; 64], false);
    loop {
        match input.read(&mut buffer) {
            Ok(0) => return was_greeted,
            Ok(_) => was_greeted = true,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return was_greeted,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn only_the_end_of_a_pipe_that_greeted_counts() {
        let (end, lifeline) = new().expect("a pipe");
        let waiting = thread::spawn(move || is_lost(end));
        thread::sleep(Duration::from_millis(50));
        assert!(!waiting.is_finished(), "the supervisor is there");
        drop(lifeline);
        assert!(waiting.join().expect("it does not panic"));
        assert!(!is_lost(io::empty()), "nobody was there");
    }

    #[test]
    fn a_run_without_its_supervisor_is_asked_to_end_and_then_made_to() {
        for (input, expected) in [(GREETING, true), (&b""[..], false)] {
            let (interrupt, mut has_aborted) = (Interrupt::default(), false);
            end_with(input, Duration::ZERO, &interrupt, || has_aborted = true);
            assert_eq!((interrupt.is_requested(), has_aborted), (expected, expected));
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_sibling_does_not_keep_the_line_open() {
        let (end, lifeline) = new().expect("a pipe");
        let sibling = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn();
        let mut sibling = sibling.expect("sleep is there");
        drop(lifeline);
        assert!(is_lost(end), "the end is seen while the sibling lives");
        sibling.kill().expect("it is running");
        sibling.wait().expect("it ends");
    }
}
