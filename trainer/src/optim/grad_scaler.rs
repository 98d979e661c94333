//! Dynamic loss scaling: keeps the gradients of an `f16` model within the range of `f16`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::OptimError;

/// Settings of the loss scale, which matters when `param_dtype` is `f16`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GradScalerConfig {
    /// Scale of the first step.
    pub init_scale: f64,
    /// Multiplies the scale after `growth_interval` steps in a row without an overflow; above 1.
    pub growth_factor: f64,
    /// Multiplies the scale after a step whose gradients overflowed; above 0 and below 1.
    pub backoff_factor: f64,
    /// Steps in a row without an overflow before the scale grows.
    #[schemars(range(min = 1))]
    pub growth_interval: u64,
}

impl Default for GradScalerConfig {
    fn default() -> Self {
        Self {
            init_scale: 65_536.0,
            growth_factor: 2.0,
            backoff_factor: 0.5,
            growth_interval: 2000,
        }
    }
}

impl GradScalerConfig {
    /// Checks the numbers.
    ///
    /// # Errors
    ///
    /// A number out of its range.
    pub fn validate(&self) -> Result<(), OptimError> {
        let (growth, backoff) = (self.growth_factor, self.backoff_factor);
        let rows = [
            ("init_scale", self.init_scale, self.init_scale > 0.0, "a finite number above 0"),
            ("growth_factor", growth, growth > 1.0, "a finite number above 1"),
            ("backoff_factor", backoff, backoff > 0.0 && backoff < 1.0, "above 0 and below 1"),
        ];
        match rows.into_iter().find(|(_, value, fits, _)| !fits || !value.is_finite()) {
            Some((key, value, _, allowed)) => {
                let key = format!("device_parameters.grad_scaler.{key}");
                Err(OptimError::OutOfRange { key, value, allowed })
            }
            None => Ok(()),
        }
    }
}

/// What a checkpoint keeps of a [`GradScaler`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GradScalerState {
    /// Scale of the next step.
    pub scale: f64,
    /// Steps without an overflow since the scale last changed.
    pub growth_tracker: u64,
}

/// Multiplies losses, so that small gradients stay above the smallest number of `f16`, and finds
/// the largest factor at which large ones do not overflow.
///
/// The rules and their numbers are those of PyTorch's `GradScaler`: a step with a gradient that is
/// not finite is skipped and lowers the scale; many without one raise it.
///
/// # References
///
/// Micikevicius et al., "Mixed precision training", arXiv:1710.03740, section 3.2.
#[derive(Debug, Clone)]
pub struct GradScaler {
    config: GradScalerConfig,
    state: GradScalerState,
}

impl GradScaler {
    /// Starts at the configured scale.
    pub fn new(config: GradScalerConfig) -> Self {
        let state = GradScalerState { scale: config.init_scale, growth_tracker: 0 };
        Self { config, state }
    }

    /// Returns the factor of the next step's loss.
    pub fn scale(&self) -> f64 {
        self.state.scale
    }

    /// Tells whether a lower scale may help against an overflow. Below 1 the gradients themselves
    /// are too large, or no numbers.
    pub fn can_back_off(&self) -> bool {
        self.state.scale >= 1.0
    }

    /// Takes note of a step.
    pub fn update(&mut self, overflowed: bool) {
        let GradScalerState { scale, growth_tracker } = &mut self.state;
        if overflowed {
            (*scale, *growth_tracker) = (*scale * self.config.backoff_factor, 0);
            return;
        }
        *growth_tracker += 1;
        if *growth_tracker >= self.config.growth_interval {
            (*scale, *growth_tracker) = (*scale * self.config.growth_factor, 0);
        }
    }

    /// Returns what a checkpoint keeps.
    pub fn state(&self) -> GradScalerState {
        self.state
    }

    /// Takes back what [`GradScaler::state`] gave.
    pub fn restore(&mut self, state: GradScalerState) {
        self.state = state;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_falls_at_once_and_rises_after_an_interval() {
        let config = GradScalerConfig { growth_interval: 3, ..GradScalerConfig::default() };
        let mut scaler = GradScaler::new(config);
        let overflows = [true, false, false, true, false, false, false, false];
        let scales = overflows.map(|overflowed| {
            scaler.update(overflowed);
            scaler.scale()
        });
        let expected = [32768, 32768, 32768, 16384, 16384, 16384, 32768, 32768].map(f64::from);
        assert_eq!(scales, expected);
        assert_eq!(scaler.state().growth_tracker, 1);
    }

    #[test]
    fn below_one_the_scale_is_not_to_blame() {
        let config = GradScalerConfig { init_scale: 1.0, ..GradScalerConfig::default() };
        let mut scaler = GradScaler::new(config);
        assert!(scaler.can_back_off());
        scaler.update(true);
        assert!(!scaler.can_back_off());
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        let ok = GradScalerConfig::default();
        for config in [
            GradScalerConfig { init_scale: 0.0, ..ok.clone() },
            GradScalerConfig { init_scale: f64::INFINITY, ..ok.clone() },
            GradScalerConfig { growth_factor: 1.0, ..ok.clone() },
            GradScalerConfig { backoff_factor: 1.0, ..ok.clone() },
            GradScalerConfig { backoff_factor: f64::NAN, ..ok.clone() },
        ] {
            assert!(config.validate().is_err(), "{config:?}");
        }
        assert_eq!(ok.validate(), Ok(()));
    }
}
