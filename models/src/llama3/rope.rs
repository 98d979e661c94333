//! Rotary frequencies with their scaling, and the table made from them.

use std::f64::consts::TAU;
use std::sync::{Mutex, PoisonError};

use burn::tensor::Device;
use dream_trainer::kernels::RopeTable;

use super::rope_scaling::{Llama3Scaling, YarnScaling};
use super::{Llama3Shape, RopeScaling};

impl Llama3Shape {
    /// Returns the angle by which each pair of a head turns per position, in radians, in sequences
    /// of `positions` tokens.
    ///
    /// Only with `dynamic` scaling does it depend on the length. It then is that of Hugging Face for
    /// sequences that all have this length; there, after a longer one, shorter ones keep its
    /// frequencies until one is shorter than the original length. Here a batch means the same
    /// whatever came before it.
    ///
    /// # References
    ///
    /// `RoFormer`, arXiv:2104.09864, section 3.2.2; for scaling see [`RopeType`](super::RopeType).
    pub fn rope_frequencies(&self, positions: usize) -> Vec<f64> {
        let (theta, dim) = (self.dynamic_theta(positions), self.head_dim as f64);
        let frequencies = (0..self.head_dim / 2).map(|i| theta.powf(-((2 * i) as f64) / dim));
        match &self.rope_scaling {
            None | Some(RopeScaling::Dynamic { .. }) => frequencies.collect(),
            Some(RopeScaling::Linear { factor }) => frequencies.map(|f| f / factor).collect(),
            Some(RopeScaling::Llama3(llama3)) => frequencies.map(|f| llama3.apply(f)).collect(),
            Some(RopeScaling::Yarn(yarn)) => {
                let range = yarn.range(theta, self.head_dim);
                frequencies.enumerate().map(|(i, f)| yarn.apply(f, i, range)).collect()
            }
        }
    }

    /// Returns the factor of rotated queries and keys.
    pub fn rope_magnitude(&self) -> f64 {
        match &self.rope_scaling {
            Some(RopeScaling::Yarn(yarn)) => yarn.attention_factor,
            _ => 1.0,
        }
    }

    /// Returns the base of the frequencies for sequences of `positions` tokens.
    fn dynamic_theta(&self, positions: usize) -> f64 {
        match &self.rope_scaling {
            Some(RopeScaling::Dynamic { factor, original_max_position_embeddings: original })
                if positions > *original =>
            {
                let dim = self.head_dim as f64;
                let longer = positions as f64 / *original as f64;
                self.rope_theta * (factor * longer - (factor - 1.0)).powf(dim / (dim - 2.0))
            }
            _ => self.rope_theta,
        }
    }

    /// Tells whether the frequencies depend on the length of the sequences.
    pub(super) fn has_dynamic_rope(&self) -> bool {
        matches!(self.rope_scaling, Some(RopeScaling::Dynamic { .. }))
    }
}

impl Llama3Scaling {
    /// Stretches one frequency: wavelengths beyond the original context in full, short ones not at
    /// all.
    fn apply(&self, frequency: f64) -> f64 {
        let turns = self.original_max_position_embeddings as f64 * frequency / TAU;
        let kept = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor);
        let kept = kept.clamp(0.0, 1.0);
        frequency * (kept + (1.0 - kept) / self.factor)
    }
}

impl YarnScaling {
    /// Returns the first pair that is stretched at all and the first that is stretched in full.
    fn range(&self, theta: f64, head_dim: usize) -> [f64; 2] {
        let (dim, original) = (head_dim as f64, self.original_max_position_embeddings as f64);
        let pair = |turns: f64| dim * (original / (turns * TAU)).ln() / (2.0 * theta.ln());
        let (low, high) = (pair(self.beta_fast), pair(self.beta_slow));
        let (low, high) = if self.truncate { (low.floor(), high.ceil()) } else { (low, high) };
        let (low, high) = (low.max(0.0), high.min(dim - 1.0));
        // As Hugging Face has it, so that an empty range is a step.
        if low == high { [low, high + 0.001] } else { [low, high] }
    }

    /// Stretches the frequency of one pair.
    fn apply(&self, frequency: f64, pair: usize, [low, high]: [f64; 2]) -> f64 {
        let stretched = ((pair as f64 - low) / (high - low)).clamp(0.0, 1.0);
        frequency * (1.0 - stretched + stretched / self.factor)
    }
}

/// Keeps the table of the longest sequence seen, so that a run makes it once.
///
/// The table is a constant: no parameter, and outside the autodiff graph. A clone starts empty, so
/// that models on different threads share no tensor.
#[derive(Debug, Default)]
pub struct RopeCache {
    kept: Mutex<Option<Kept>>,
}

#[derive(Debug)]
struct Kept {
    device: Device,
    table: RopeTable,
}

impl Clone for RopeCache {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl RopeCache {
    /// Returns a table of at least `positions` positions on `device`.
    pub fn table(&self, shape: &Llama3Shape, positions: usize, device: &Device) -> RopeTable {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        // With dynamic scaling a longer sequence has other frequencies.
        let fits =
            |rows: usize| rows == positions || (rows > positions && !shape.has_dynamic_rope());
        match &*kept {
            Some(kept) if kept.device == *device && fits(kept.table.positions()) => {
                kept.table.clone()
            }
            _ => {
                let frequencies = shape.rope_frequencies(positions);
                let table =
                    RopeTable::scaled(&frequencies, shape.rope_magnitude(), positions, device);
                *kept = Some(Kept { device: device.clone(), table: table.clone() });
                table
            }
        }
    }
}
