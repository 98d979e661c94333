//! What all callbacks together ask of the trainer after a step.

use super::Requests;

/// The requests of a whole set of callbacks, with the position of the one that asked to stop.
///
/// Callbacks on different ranks may ask for different things. [`MergedRequests::to_codes`] makes
/// them numbers whose element-wise maximum over ranks is what all ranks then do together.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct MergedRequests {
    /// Saves a checkpoint.
    pub save: bool,
    /// Validates.
    pub validate: bool,
    /// Ends the run cleanly; holds the position in the set of the first callback that asked.
    pub stop: Option<usize>,
}

impl MergedRequests {
    /// Adds what the callback at `position` asked for.
    pub(crate) fn add(&mut self, position: usize, requests: &Requests) {
        self.save |= requests.save;
        self.validate |= requests.validate;
        if requests.stop {
            self.stop = self.stop.or(Some(position));
        }
    }

    /// Returns the requests as numbers to be reduced with an element-wise maximum.
    pub fn to_codes(self) -> [i64; 3] {
        let stop = self.stop.map_or(0, |position| position as i64 + 1);
        [self.save.into(), self.validate.into(), stop]
    }

    /// Takes back what [`MergedRequests::to_codes`] gave.
    pub fn from_codes([save, validate, stop]: [i64; 3]) -> Self {
        let stop = usize::try_from(stop - 1).ok();
        Self { save: save > 0, validate: validate > 0, stop }
    }
}
