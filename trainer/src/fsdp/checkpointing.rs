//! [`ActivationCheckpointing`]: which units compute their activations again in the backward pass.

use burn::module::Module;
use burn::tensor::Device;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{FsdpError, Unit};

/// Trades compute for memory: activations that are not kept are computed again in the backward
/// pass. It changes no number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ActivationCheckpointing {
    /// Keeps everything.
    #[default]
    None,
    /// Keeps the inputs of each unit only.
    Full,
    /// Keeps everything but the activations of every n-th unit, beginning with the n-th.
    EveryNth(usize),
    /// Keeps the results of matrix products and of fused operations, and computes cheap ones, such
    /// as sums and activations, again.
    Selective,
}

impl ActivationCheckpointing {
    /// Applies the choice to units that run one after the other.
    ///
    /// # Errors
    ///
    /// `n` is zero.
    pub fn apply<M: Module>(self, units: Vec<Unit<M>>) -> Result<Vec<Unit<M>>, FsdpError> {
        let n = match self {
            Self::None | Self::Selective => return Ok(units),
            Self::Full => 1,
            Self::EveryNth(0) => {
                return Err(FsdpError::OutOfRange {
                    key: "activation_checkpointing.every_nth",
                    found: 0,
                    allowed: "at least 1",
                });
            }
            Self::EveryNth(n) => n,
        };
        Ok(units
            .into_iter()
            .enumerate()
            .map(|(i, unit)| unit.with_recompute((i + 1) % n == 0))
            .collect())
    }

    /// Returns the device on which a model is to be made, given the autodiff device of the run.
    pub fn device(self, device: Device) -> Device {
        if self == Self::Selective { device.gradient_checkpointing() } else { device }
    }
}
