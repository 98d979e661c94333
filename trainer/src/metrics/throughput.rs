//! Statistics of speed: medians, time left and model FLOPs utilization.

use serde::Serialize;

/// Returns the middle of the values, the mean of the two middle ones for an even number of them.
///
/// A median after a warm-up is the speed of a run: the first steps allocate, compile and fill
/// caches, and one of them moves a mean far away.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// Median, smallest and largest of a series.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// Middle value.
    pub median: f64,
    /// Smallest value.
    pub min: f64,
    /// Largest value.
    pub max: f64,
}

impl Spread {
    /// Returns the spread of the values, none if there are none.
    pub fn of(values: &[f64]) -> Option<Self> {
        Some(Self {
            median: median(values)?,
            min: values.iter().copied().min_by(f64::total_cmp)?,
            max: values.iter().copied().max_by(f64::total_cmp)?,
        })
    }
}

/// Returns the share of the peak that the model's own floating-point operations reach, in percent
/// of one rank's device.
///
/// Recomputed activations count as no work: only speed-ups raise the number.
///
/// # References
///
/// `PaLM`: Scaling Language Modeling with Pathways, arXiv:2204.02311, appendix B.
pub fn model_flops_utilization(
    flops_per_token: f64,
    tokens_per_second_per_rank: f64,
    peak_flops: f64,
) -> f64 {
    100.0 * flops_per_token * tokens_per_second_per_rank / peak_flops
}

/// What turns the seconds of a step into model FLOPs utilization; fixed for a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Utilization {
    /// Floating-point operations per trained token.
    pub flops_per_token: f64,
    /// Peak floating-point operations per second of one rank's device.
    pub peak_flops: f64,
    /// Tokens per step over all ranks, masked labels included: they cost the same work.
    pub tokens_per_step: u64,
    /// Ranks of the run.
    pub num_ranks: usize,
}

impl Utilization {
    /// Returns the utilization of a step, in percent of one rank's device.
    pub fn percent(&self, step_seconds: f64) -> f64 {
        let per_rank = self.tokens_per_step as f64 / step_seconds / self.num_ranks as f64;
        model_flops_utilization(self.flops_per_token, per_rank, self.peak_flops)
    }
}

/// Estimates the time a run still needs from smoothed step seconds.
///
/// Only steps are counted, so validations and checkpoints in between do not make the estimate jump.
/// The first step is forgotten as soon as there is a second, because it pays for warm-up.
#[derive(Debug, Clone, Default)]
pub struct TimeLeft {
    num_steps: u64,
    smoothed: f64,
}

impl TimeLeft {
    /// Weight of the newest step: the estimate remembers about ten steps.
    const NEWEST: f64 = 0.1;

    /// Takes in the seconds of one more step.
    pub fn observe(&mut self, step_seconds: f64) {
        self.num_steps += 1;
        // Plain means at first, so that the second step does not weigh on the estimate for long.
        let weight = if self.num_steps <= 2 {
            1.0
        } else {
            Self::NEWEST.max(1.0 / (self.num_steps - 1) as f64)
        };
        self.smoothed += weight * (step_seconds - self.smoothed);
    }

    /// Returns the seconds that `num_steps` more steps take, none before the first step.
    pub fn seconds(&self, num_steps: u64) -> Option<f64> {
        (self.num_steps > 0).then_some(self.smoothed * num_steps as f64)
    }
}
