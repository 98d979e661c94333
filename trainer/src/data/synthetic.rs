//! Made-up token sequences.

use super::mix::{mix, mix_all};

/// Sequences of made-up tokens, each a pure function of the seed and its index.
///
/// Three tokens in four follow from the token before by a fixed rule and one is drawn uniformly, so
/// that a model has something to learn and its loss a floor above zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Synthetic {
    pub(crate) seed: u64,
    pub(crate) vocab_size: usize,
    pub(crate) num_sequences: u64,
}

impl Synthetic {
    /// Writes the first `tokens.len()` tokens of a sequence and, as labels, each one's successor.
    pub(crate) fn read(&self, index: u64, tokens: &mut [i32], labels: &mut [i32]) {
        let key = mix_all([self.seed, index]);
        let mut token = self.uniform(mix(key));
        for (position, (slot, label)) in tokens.iter_mut().zip(labels).enumerate() {
            *slot = token as i32;
            token = self.successor(token, mix_all([key, position as u64]));
            *label = token as i32;
        }
    }

    fn successor(&self, token: u64, random: u64) -> u64 {
        if random.is_multiple_of(4) {
            self.uniform(random)
        } else {
            (5 * token + 7) % self.vocab_size as u64
        }
    }

    /// Maps a random word to the vocabulary by its high bits, the low ones being used for choices.
    fn uniform(&self, random: u64) -> u64 {
        ((u128::from(random) * self.vocab_size as u128) >> 64) as u64
    }
}
