//! Signals: requests to end and to save.
//!
//! A handler only sets flags, so that a request counts whatever state the console is in; what is said
//! about it comes later and from elsewhere. A signal that whoever started the program ignores stays
//! ignored, as `nohup` wants of `SIGHUP`.

use std::ffi::c_int;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use signal_hook::flag;

use super::Exit;
use crate::train::Interrupt;

/// Pause between two looks at the flags.
const LOOK: Duration = Duration::from_millis(50);
/// How long further hang-ups belong to the first: a terminal that goes away sends several.
const HANGUPS: Duration = Duration::from_secs(2);

#[cfg(unix)]
const ENDING: [c_int; 3] =
    [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP];
#[cfg(not(unix))]
const ENDING: [c_int; 2] = [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM];

/// Sets the flags of `interrupt` on `SIGINT`, `SIGTERM` and `SIGHUP`, and on `SIGUSR1`.
///
/// # Errors
///
/// A handler cannot be installed.
pub(super) fn set_flags(interrupt: &Interrupt) -> io::Result<()> {
    for signal in ENDING.into_iter().filter(|signal| !is_ignored(*signal)) {
        flag::register(signal, Arc::clone(interrupt.end_flag()))?;
    }
    #[cfg(unix)]
    if !is_ignored(signal_hook::consts::SIGUSR1) {
        flag::register(signal_hook::consts::SIGUSR1, Arc::clone(interrupt.save_flag()))?;
    }
    Ok(())
}

/// Ends a run at the end of the current step with the first signal that asks for it, and at once with
/// the second.
///
/// # Errors
///
/// A handler cannot be installed, or the thread that tells of the first signal cannot be started.
pub(super) fn interrupt_run(interrupt: &Interrupt) -> io::Result<()> {
    let has_settled = Arc::new(AtomicBool::new(false));
    for signal in ENDING.into_iter().filter(|signal| !is_ignored(*signal)) {
        let is_hangup =
            !matches!(signal, signal_hook::consts::SIGINT | signal_hook::consts::SIGTERM);
        let was_asked = if is_hangup { &has_settled } else { interrupt.end_flag() };
        // Actions run in this order, so the first signal finds the flag unset.
        flag::register_conditional_shutdown(
            signal,
            i32::from(Exit::Interrupted as u8),
            Arc::clone(was_asked),
        )?;
    }
    set_flags(interrupt)?;
    let interrupt = interrupt.clone();
    let tell = move || {
        while !interrupt.is_requested() {
            thread::sleep(LOOK);
        }
        tracing::warn!("interrupted: ending after this step; once more ends at once");
        thread::sleep(HANGUPS);
        has_settled.store(true, Ordering::Relaxed);
    };
    thread::Builder::new().name("signals".into()).spawn(tell).map(|_| ())
}

/// Tells whether this process was started with a signal ignored.
#[cfg(unix)]
#[expect(unsafe_code, reason = "no safe crate reads a disposition without changing it")]
fn is_ignored(signal: c_int) -> bool {
    use nix::libc;

    // SAFETY: a null action changes nothing; `old` is a valid place for the current one, and all
    // zeros are a valid `sigaction`.
    let (status, old) = unsafe {
        let mut old: libc::sigaction = std::mem::zeroed();
        (libc::sigaction(signal, std::ptr::null(), &raw mut old), old)
    };
    status == 0 && old.sa_sigaction == libc::SIG_IGN
}

/// Signals are not inherited here.
#[cfg(not(unix))]
fn is_ignored(_: c_int) -> bool {
    false
}
