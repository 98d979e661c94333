//! [`Action`]: one thing that a rank does for one stage, and its text form.

use std::fmt;
use std::str::FromStr;

use super::ScheduleError;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ActionKind {
    /// Forward pass of a microbatch.
    Forward,
    /// Whole backward pass of a microbatch.
    Backward,
    /// Gradient with regard to the stage's input only, which the stage before waits for.
    InputGradient,
    /// Gradient with regard to the stage's weights, which nobody waits for.
    WeightGradient,
    /// Sends the output of a forward pass to the next stage.
    SendForward,
    /// Receives the output of the stage before.
    RecvForward,
    /// Sends the gradient of the input to the stage before.
    SendBackward,
    /// Receives the gradient of the output from the next stage.
    RecvBackward,
    /// Gathers the stage's sharded weights.
    Unshard,
    /// Frees the stage's gathered weights.
    Reshard,
    /// Reduces the stage's gradients over its replicas and shards.
    ReduceGrad,
}

impl ActionKind {
    const NAMES: [(Self, &'static str); 11] = [
        (Self::Forward, "F"),
        (Self::Backward, "B"),
        (Self::InputGradient, "I"),
        (Self::WeightGradient, "W"),
        (Self::SendForward, "SEND_F"),
        (Self::RecvForward, "RECV_F"),
        (Self::SendBackward, "SEND_B"),
        (Self::RecvBackward, "RECV_B"),
        (Self::Unshard, "UNSHARD"),
        (Self::Reshard, "RESHARD"),
        (Self::ReduceGrad, "REDUCE_GRAD"),
    ];

    /// Returns whether the action computes, rather than communicates.
    pub fn computes(self) -> bool {
        use ActionKind::{Backward, Forward, InputGradient, WeightGradient};
        matches!(self, Forward | Backward | InputGradient | WeightGradient)
    }

    /// Returns whether the action belongs to one microbatch, rather than to the whole step.
    pub fn has_microbatch(self) -> bool {
        !matches!(self, Self::Unshard | Self::Reshard | Self::ReduceGrad)
    }

    fn name(self) -> &'static str {
        let mut names = Self::NAMES.into_iter();
        names.find(|(kind, _)| *kind == self).map_or("", |(_, name)| name)
    }
}

/// One action of a rank.
///
/// Its text is `PyTorch`'s: the stage, the kind, the microbatch where there is one. `2F0` is the
/// forward pass of microbatch 0 through stage 2, `1SEND_B3` sends the gradient of stage 1's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Action {
    /// Stage that it is done for, which lies on the rank that does it.
    pub stage: usize,
    /// What is done.
    pub kind: ActionKind,
    /// Microbatch; 0 for what is done once per step.
    pub microbatch: usize,
}

impl Action {
    /// Returns an action of one microbatch.
    pub fn new(stage: usize, kind: ActionKind, microbatch: usize) -> Self {
        Self { stage, kind, microbatch }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.stage, self.kind.name())?;
        if self.kind.has_microbatch() { write!(f, "{}", self.microbatch) } else { Ok(()) }
    }
}

impl FromStr for Action {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        let unknown = || ScheduleError::UnknownAction { text: text.to_owned() };
        let is_digit = |c: char| c.is_ascii_digit();
        let after_stage = text.trim_start_matches(is_digit);
        let (stage, rest) = text.split_at(text.len() - after_stage.len());
        let name = rest.trim_end_matches(is_digit);
        let microbatch = &rest[name.len()..];
        let (kind, _) =
            ActionKind::NAMES.into_iter().find(|(_, known)| *known == name).ok_or_else(unknown)?;
        // 32 bits: no schedule is as long, and what follows may add to it.
        let number = |digits: &str| digits.parse::<u32>().map_err(|_| unknown());
        let stage = number(stage)? as usize;
        let microbatch = match (kind.has_microbatch(), microbatch) {
            (true, digits) => number(digits)? as usize,
            (false, "") => 0,
            (false, _) => return Err(unknown()),
        };
        Ok(Self { stage, kind, microbatch })
    }
}
