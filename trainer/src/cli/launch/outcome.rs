//! What the end of a run means: whether to start it again, and which code to leave with.

use crate::cli::Exit;

/// How a run ended, as its supervisor sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// With an exit code.
    Code(u8),
    /// By a signal.
    Signal(u8),
    /// It printed nothing for too long.
    Idle,
    /// Its supervisor was asked to end it, after which it left with this code.
    Interrupted(u8),
}

/// Exit code of a run that printed nothing for too long, as of `timeout`.
const IDLE: u8 = 124;

impl Outcome {
    /// Tells whether another try may do better: what is wrong with a configuration, a number, a
    /// checkpoint or data is wrong again the next time.
    pub(super) fn may_heal(self) -> bool {
        let final_codes = [
            Exit::Ok,
            Exit::Usage,
            Exit::Numerics,
            Exit::Checkpoint,
            Exit::Data,
            Exit::Interrupted,
        ];
        match self {
            Self::Code(code) => final_codes.iter().all(|exit| *exit as u8 != code),
            Self::Signal(_) | Self::Idle => true,
            Self::Interrupted(_) => false,
        }
    }

    /// Returns the exit code to leave with, as a shell would give it.
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Code(code) | Self::Interrupted(code) => code,
            Self::Signal(signal) => 128_u8.saturating_add(signal),
            Self::Idle => IDLE,
        }
    }

    /// Says what happened.
    pub(super) fn describe(self) -> String {
        match self {
            Self::Code(code) => format!("the run ended with exit code {code}"),
            Self::Signal(signal) => format!("the run was ended by signal {signal}"),
            Self::Idle => "the run printed nothing for too long and was ended".to_owned(),
            Self::Interrupted(code) => format!("the run was interrupted, exit code {code}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_heal_is_tried_again() {
        let rows = [
            (Outcome::Code(0), false, 0),
            (Outcome::Code(1), true, 1),
            (Outcome::Code(2), false, 2),
            (Outcome::Code(3), true, 3),
            (Outcome::Code(4), false, 4),
            (Outcome::Code(5), false, 5),
            (Outcome::Code(6), false, 6),
            (Outcome::Code(130), false, 130),
            (Outcome::Code(137), true, 137),
            (Outcome::Signal(9), true, 137),
            (Outcome::Idle, true, 124),
            (Outcome::Interrupted(3), false, 3),
        ];
        for (outcome, heals, code) in rows {
            assert_eq!((outcome.may_heal(), outcome.code()), (heals, code), "{outcome:?}");
        }
    }
}
