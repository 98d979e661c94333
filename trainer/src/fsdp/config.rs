//! How a model is sharded: the typed configuration.

use burn::tensor::DType;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::FsdpError;

/// What each rank holds only a part of. Each stage saves more memory than the one before and
/// communicates at least as much.
///
/// # References
///
/// Rajbhandari, Rasley, Ruwase and He, "Memory optimizations toward training trillion parameter
/// models", arXiv:1910.02054, section 5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reshard {
    /// Optimizer state and master weights (stage 1): whole parameters stay until the optimizer
    /// changes them, and whole gradients are summed over the microbatches before they are reduced
    /// once.
    Optimizer,
    /// Also gradients (stage 2): they are reduced after each microbatch.
    Gradients,
    /// Also parameters (stage 3): a unit's are gathered for its forward and again for its backward
    /// pass.
    #[default]
    Parameters,
}

/// How a model is sharded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FullyShardConfig {
    /// What each rank holds only a part of: `optimizer`, `gradients` or `parameters` (stages 1, 2,
    /// 3 of the paper). Default `parameters`. With pipeline stages `parameters` acts as
    /// `gradients`, so that gathers do not grow with the number of microbatches.
    pub reshard: Reshard,
    /// Sums whole gradients over the microbatches of a step and reduces them once, whatever is
    /// resharded: fewer reductions for the memory of whole gradients. Stage 1 does so by itself.
    /// Default false.
    pub accumulate_whole_gradients: bool,
    /// Element type in which parameters are gathered and units compute: what enters a unit is cast
    /// to it. The shards, which the optimizer updates, stay as they are. Default: the shards' own.
    pub param_dtype: Option<DType>,
    /// Element type in which gradients are summed over ranks and microbatches. Default: that of the
    /// shards.
    pub reduce_dtype: Option<DType>,
    /// Element type of what leaves a unit. Default: whatever the unit computes.
    pub output_dtype: Option<DType>,
    /// Keeps shards, and with them their gradients and the optimizer's state, in host memory. A unit's
    /// shards go to the device for each gather, and its reduced gradients come back. Default false.
    pub cpu_offload: bool,
    /// Units gathered ahead of the one that computes, and reductions under way behind it. 0 turns
    /// overlap off. Default 1.
    pub prefetch_units: usize,
    /// Keeps the parameters of the last unit between its forward and backward pass, which follow
    /// each other. Default true.
    pub keep_last_unit: bool,
}

impl FullyShardConfig {
    /// Tells whether units compute in another type or place than the one in which their parameters
    /// rest, which takes units even where there is nobody to share with.
    pub fn converts(&self) -> bool {
        self.param_dtype.is_some() || self.output_dtype.is_some() || self.cpu_offload
    }

    /// Checks the values by themselves.
    ///
    /// # Errors
    ///
    /// An element type that is not a float of 16 or 32 bits.
    pub fn validate(&self) -> Result<(), FsdpError> {
        let dtypes = [
            ("param_dtype", self.param_dtype),
            ("reduce_dtype", self.reduce_dtype),
            ("output_dtype", self.output_dtype),
        ];
        for (key, dtype) in dtypes {
            if let Some(dtype) = dtype
                && !matches!(dtype, DType::F32 | DType::BF16 | DType::F16)
            {
                return Err(FsdpError::Dtype { key, found: format!("{dtype:?}") });
            }
        }
        Ok(())
    }
}

impl Default for FullyShardConfig {
    fn default() -> Self {
        Self {
            reshard: Reshard::default(),
            accumulate_whole_gradients: false,
            param_dtype: None,
            reduce_dtype: None,
            output_dtype: None,
            cpu_offload: false,
            prefetch_units: 1,
            keep_last_unit: true,
        }
    }
}
