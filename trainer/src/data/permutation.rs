//! Shuffled order without a table.

use super::mix::mix_all;

/// Feistel rounds. Four already hide the input from an observer; small domains have little key in
/// each round, so take more.
const NUM_ROUNDS: u64 = 8;

/// A permutation of `0..len` that is a pure function of a seed and an epoch.
///
/// It takes no memory, so it serves any number of sequences, and every element is found alone, so
/// that any rank can start anywhere.
///
/// # References
/// Luby and Rackoff, "How to construct pseudorandom permutations from pseudorandom functions", SIAM
/// J. Comput. 17(2), 1988: a Feistel network of keyed functions permutes the words of a bit length.
/// Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002: walking its cycle until
/// it returns below `len` permutes `0..len`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permutation {
    len: u64,
    key: u64,
    low_bits: u32,
    high_bits: u32,
}

impl Permutation {
    /// Draws the permutation of an epoch.
    pub fn new(len: u64, seed: u64, epoch: u64) -> Self {
        // The smallest power of two that holds `len` is below twice of it, so a walk takes two
        // steps on average at most.
        let bits = u64::BITS - len.saturating_sub(1).leading_zeros();
        let low_bits = bits.div_ceil(2);
        Self { len, key: mix_all([seed, epoch]), low_bits, high_bits: bits - low_bits }
    }

    /// Returns the element at a place.
    ///
    /// # Panics
    /// If `place` is not below the length.
    pub fn apply(&self, place: u64) -> u64 {
        assert!(place < self.len, "place {place} of a permutation of {}", self.len);
        // The walk ends: it is on a cycle through `place`, which is below the length itself.
        let mut element = self.encrypt(place);
        while element >= self.len {
            element = self.encrypt(element);
        }
        element
    }

    /// Permutes the words of `low_bits + high_bits` bits. Each half in turn is combined with a
    /// function of the other, which the same combination undoes.
    fn encrypt(&self, word: u64) -> u64 {
        let low_mask = (1 << self.low_bits) - 1;
        let high_mask = (1 << self.high_bits) - 1;
        let mut low = word & low_mask;
        let mut high = word >> self.low_bits;
        for round in 0..NUM_ROUNDS {
            low ^= mix_all([self.key, 2 * round, high]) & low_mask;
            high ^= mix_all([self.key, 2 * round + 1, low]) & high_mask;
        }
        high << self.low_bits | low
    }
}
