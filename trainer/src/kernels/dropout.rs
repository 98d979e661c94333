//! Masks of dropout, from a counter: any element of any mask can be made anywhere, at any time.
//!
//! # References
//!
//! Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011: Philox
//! with four words and ten rounds.

use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;

/// Where the first element of a mask lies among all masks of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DropoutPosition {
    /// Names the seed and the layer.
    pub key: u64,
    /// Optimizer step.
    pub step: u64,
    /// Number of the first sequence in its step.
    pub first_sequence: u64,
    /// Position of the first token in its sequence.
    pub first_token: u64,
}

/// Sets each element to zero with `probability` and divides the others by what is left, so that the
/// expected value stays.
///
/// Whether element (sequence, token, feature) stays is a pure function of its position, so that any
/// part of a batch gets its part of the mask. The mask is made on the host.
///
/// # Shapes
///
/// `[b, s, h]` to the same.
///
/// # Panics
///
/// If `probability` is not in `[0, 1)`.
///
/// # References
///
/// Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", JMLR 15
/// (2014).
pub fn dropout(x: Tensor<3>, probability: f64, position: DropoutPosition) -> Tensor<3> {
    assert!((0.0..1.0).contains(&probability), "a probability below 1, not {probability}");
    let shape = x.dims();
    let mask = TensorData::new(mask(shape, probability, position), shape);
    let mask = Tensor::from_data(mask, (&x.device(), x.dtype()));
    x * mask
}

fn mask([b, s, h]: [usize; 3], probability: f64, position: DropoutPosition) -> Vec<f32> {
    let mut mask = vec![0.0; b * s * h];
    let kept = (1.0 / (1.0 - probability)) as f32;
    // An element is dropped if its word is below this share of all words.
    let dropped = (probability * (1_u64 << 32) as f64) as u32;
    let DropoutPosition { key, step, first_sequence, first_token } = position;
    mask.par_chunks_mut(h.max(1)).with_min_len(64).enumerate().for_each(|(row, mask)| {
        let sequence = first_sequence + (row / s) as u64;
        let token = first_token + (row % s) as u64;
        let key = key ^ beyond_32_bits(step, sequence);
        for (block, mask) in mask.chunks_mut(4).enumerate() {
            let words = philox([block as u32, token as u32, sequence as u32, step as u32], key);
            for (mask, word) in mask.iter_mut().zip(words) {
                *mask = if word < dropped { 0.0 } else { kept };
            }
        }
    });
    mask
}

/// Returns what changes the key where a number does not fit its word of the counter, so that masks do
/// not come again; 0 otherwise.
fn beyond_32_bits(step: u64, sequence: u64) -> u64 {
    let high = |number: u64, factor: u64| (number >> 32).wrapping_mul(factor);
    high(step, 0x9E37_79B9_7F4A_7C15) ^ high(sequence, 0xC2B2_AE3D_27D4_EB4F)
}

/// Encrypts a counter.
fn philox(mut counter: [u32; 4], key: u64) -> [u32; 4] {
    const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
    const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
    let mut key = [key as u32, (key >> 32) as u32];
    for _ in 0..10 {
        let products = [0, 1].map(|i| u64::from(MULTIPLIERS[i]) * u64::from(counter[2 * i]));
        let [[low0, high0], [low1, high1]] =
            products.map(|product| [product as u32, (product >> 32) as u32]);
        counter = [high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::philox;

    /// The known answers that the authors publish with their implementation.
    #[test]
    fn known_answers() {
        let ones = u32::MAX;
        assert_eq!(philox([0; 4], 0), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox([ones; 4], u64::MAX),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], 0x299f_31d0_a409_3822),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }
}
