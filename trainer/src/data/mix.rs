//! Counter-based random numbers: a number is a function of what it is for, not of those drawn
//! before.

/// Mixes a 64-bit word so that near inputs have unrelated outputs; a bijection.
///
/// # References
/// The output function of `SplitMix64`, from Steele, Lea and Flood, "Fast splittable pseudorandom
/// number generators", OOPSLA 2014.
pub(crate) fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// Mixes words into one, order included.
pub(crate) fn mix_all<const N: usize>(words: [u64; N]) -> u64 {
    words.into_iter().fold(0, |state, word| mix(state ^ mix(word)))
}
