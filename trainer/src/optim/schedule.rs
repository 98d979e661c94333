//! Learning rate over the run, as a pure function of the step.

use std::f64::consts::PI;

use super::{DecayShape, LrSchedulerConfig, OptimError, ScheduleName};

/// A validated `[lr_scheduler]` table: the factor by which each update scales the peak learning
/// rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LrSchedule {
    name: ScheduleName,
    warmup: u64,
    total: u64,
    decay_start: u64,
    shape: DecayShape,
    min: f64,
    first: u64,
}

impl LrSchedulerConfig {
    /// Checks the table and fixes its length, which is `num_steps` unless the table says otherwise.
    ///
    /// # Errors
    ///
    /// A key of another schedule, a number out of range, or a warm-up longer than the schedule.
    pub fn resolve(&self, num_steps: u64) -> Result<LrSchedule, OptimError> {
        let total = self.total_steps.unwrap_or(num_steps);
        let chosen = match self.name {
            ScheduleName::Constant => "constant",
            ScheduleName::Linear => "linear",
            ScheduleName::Cosine => "cosine",
            ScheduleName::Wsd => "wsd",
        };
        if self.name != ScheduleName::Wsd {
            let wsd = [
                ("lr_scheduler.decay_ratio", self.decay_ratio.is_some()),
                ("lr_scheduler.decay_shape", self.decay_shape.is_some()),
            ];
            if let Some((key, _)) = wsd.into_iter().find(|(_, given)| *given) {
                return Err(OptimError::KeyOfAnother { key, belongs_to: "`wsd`", chosen });
            }
        }
        let ratio = self.decay_ratio.unwrap_or(0.2);
        if !(ratio > 0.0 && ratio <= 1.0) {
            return Err(OptimError::OutOfRange {
                key: "lr_scheduler.decay_ratio".into(),
                value: ratio,
                allowed: "above 0 and at most 1",
            });
        }
        if !(0.0..=1.0).contains(&self.min_lr_factor) {
            let allowed = "at least 0 and at most 1";
            return Err(OptimError::OutOfRange {
                key: "lr_scheduler.min_lr_factor".into(),
                value: self.min_lr_factor,
                allowed,
            });
        }
        if self.warmup_steps > total {
            return Err(OptimError::WarmupTooLong { warmup: self.warmup_steps, total });
        }
        let decay_start = match self.name {
            ScheduleName::Wsd => {
                total.saturating_sub((total as f64 * ratio).round() as u64).max(self.warmup_steps)
            }
            _ => self.warmup_steps,
        };
        let shape = match self.name {
            ScheduleName::Cosine => DecayShape::Cosine,
            _ => self.decay_shape.unwrap_or_default(),
        };
        Ok(LrSchedule {
            name: self.name,
            warmup: self.warmup_steps,
            total,
            decay_start,
            shape,
            min: self.min_lr_factor,
            first: 0,
        })
    }
}

impl LrSchedule {
    /// Moves the schedule so that it begins at update `first`, counted from 0.
    #[must_use]
    pub fn starting_at(self, first: u64) -> Self {
        Self { first, ..self }
    }

    /// Returns the factor of update `index`, counted from 0.
    ///
    /// Warm-up gives `(index + 1) / warmup_steps`; the decay starts at 1 and has reached the
    /// minimum at `total_steps`, both counted from the update at which the schedule begins.
    pub fn factor(&self, index: u64) -> f64 {
        let index = index.saturating_sub(self.first);
        if index < self.warmup {
            return (index + 1) as f64 / self.warmup as f64;
        }
        if self.name == ScheduleName::Constant || index < self.decay_start {
            return 1.0;
        }
        if index >= self.total {
            return self.min;
        }
        let elapsed = (index - self.decay_start) as f64 / (self.total - self.decay_start) as f64;
        let left = match self.shape {
            DecayShape::Linear => 1.0 - elapsed,
            DecayShape::Cosine => 0.5 * (1.0 + (PI * elapsed).cos()),
            DecayShape::Sqrt => 1.0 - elapsed.sqrt(),
        };
        self.min + (1.0 - self.min) * left
    }
}
