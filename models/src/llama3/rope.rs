//! Rotary frequencies with Llama 3.1's scaling, and the table made from them.

use std::f64::consts::TAU;
use std::sync::{Mutex, PoisonError};

use burn::tensor::Device;
use dream_trainer::kernels::RopeTable;

use super::{Llama3Shape, RopeScaling};

impl Llama3Shape {
    /// Returns the angle by which each pair of a head turns per position, in radians.
    ///
    /// # References
    ///
    /// `RoFormer`, arXiv:2104.09864, section 3.2.2; The Llama 3 Herd of Models, arXiv:2407.21783,
    /// section 3.4.2.
    pub fn rope_frequencies(&self) -> Vec<f64> {
        let scale = |frequency| match &self.rope_scaling {
            Some(scaling) => scaling.apply(frequency),
            None => frequency,
        };
        (0..self.head_dim / 2)
            .map(|i| scale(self.rope_theta.powf(-((2 * i) as f64) / self.head_dim as f64)))
            .collect()
    }
}

impl RopeScaling {
    /// Stretches one frequency: wavelengths beyond the original context in full, short ones not at
    /// all.
    fn apply(&self, frequency: f64) -> f64 {
        let turns = self.original_max_position_embeddings as f64 * frequency / TAU;
        let kept = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor);
        let kept = kept.clamp(0.0, 1.0);
        frequency * (kept + (1.0 - kept) / self.factor)
    }
}

/// Keeps the table of the longest sequence seen, so that a run makes it once.
///
/// The table is a constant: no parameter, and outside the autodiff graph. A clone starts empty, so
/// that models on different threads share no tensor.
#[derive(Debug, Default)]
pub struct RopeCache {
    table: Mutex<Option<(Device, RopeTable)>>,
}

impl Clone for RopeCache {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl RopeCache {
    /// Returns a table of at least `positions` positions on `device`.
    pub fn table(&self, shape: &Llama3Shape, positions: usize, device: &Device) -> RopeTable {
        let mut kept = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        match &*kept {
            Some((at, table)) if at == device && table.positions() >= positions => table.clone(),
            _ => {
                let table =
                    RopeTable::from_frequencies(&shape.rope_frequencies(), positions, device);
                *kept = Some((device.clone(), table.clone()));
                table
            }
        }
    }
}
