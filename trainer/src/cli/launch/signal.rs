//! Asking a process to save or to end, and making it.

use std::process::Child;

/// How firmly a process is told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tell {
    /// It saves a checkpoint and goes on.
    Save,
    /// It may finish what it does.
    End,
    /// It ends now, with everything it started in its group.
    Die,
}

/// Tells a child that leads a process group; one that has already ended hears nothing.
#[cfg(unix)]
pub(super) fn tell(child: &mut Child, how: Tell) {
    use nix::sys::signal::{Signal, kill, killpg};
    use nix::unistd::Pid;

    let Ok(id) = i32::try_from(child.id()) else { return };
    let sent = match how {
        Tell::Save => kill(Pid::from_raw(id), Signal::SIGUSR1),
        Tell::End => kill(Pid::from_raw(id), Signal::SIGTERM),
        Tell::Die => killpg(Pid::from_raw(id), Signal::SIGKILL),
    };
    if let Err(error) = sent {
        tracing::debug!(%error, "the run could not be told to end");
    }
}

/// Ends a child at once: there is no way to ask here.
#[cfg(not(unix))]
pub(super) fn tell(child: &mut Child, how: Tell) {
    if how != Tell::Save
        && let Err(error) = child.kill()
    {
        tracing::debug!(%error, "the run could not be told to end");
    }
}

/// Makes a command the leader of a process group, so that Ctrl-C reaches only its supervisor, which
/// passes it on once.
#[cfg(unix)]
pub(super) fn lead_a_group(command: &mut std::process::Command) {
    std::os::unix::process::CommandExt::process_group(command, 0);
}

/// Does nothing where there are no process groups.
#[cfg(not(unix))]
pub(super) fn lead_a_group(_: &mut std::process::Command) {}

/// Returns the signal that ended a process.
#[cfg(unix)]
pub(super) fn signal_of(status: std::process::ExitStatus) -> Option<u8> {
    let signal = std::os::unix::process::ExitStatusExt::signal(&status)?;
    u8::try_from(signal).ok()
}

/// Returns nothing where processes do not end by signals.
#[cfg(not(unix))]
pub(super) fn signal_of(_: std::process::ExitStatus) -> Option<u8> {
    None
}
