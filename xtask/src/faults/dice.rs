//! Every choice of a case, a function of the campaign's seed and the number of the case.

use std::ops::Range;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// A stream of choices.
pub(super) struct Dice(ChaCha8Rng);

impl Dice {
    /// Returns the stream of a case.
    pub(super) fn new(seed: u64, case: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(case);
        Self(rng)
    }

    /// Returns a number of a range that is not empty.
    pub(super) fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.0.next_u64() % (range.end - range.start)
    }

    /// Returns an index below `len`, which is not 0.
    pub(super) fn below(&mut self, len: usize) -> usize {
        self.within(0..len as u64) as usize
    }

    /// Returns an element of a list that is not empty.
    pub(super) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// Returns true `percent` times out of 100.
    pub(super) fn chance(&mut self, percent: u64) -> bool {
        self.within(0..100) < percent
    }

    /// Returns a time from 0 to `longest`, in microseconds.
    pub(super) fn time(&mut self, longest: Duration) -> Duration {
        Duration::from_micros(self.within(0..longest.as_micros() as u64 + 1))
    }
}
