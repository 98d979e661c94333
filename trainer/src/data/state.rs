//! The saved position in the data.

use serde::{Deserialize, Serialize};

use super::{DataError, Fingerprint};

/// Place in the stream of global batches, for a checkpoint.
///
/// It counts sequences of the whole run, not of a rank, so it holds on any mesh and for any
/// micro-batch size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoaderState {
    /// Version of this format.
    pub version: u32,
    /// Epoch of the next global batch, from 0.
    pub epoch: u64,
    /// Sequences of that epoch already taken by all ranks together.
    pub sequences: u64,
    /// Seed the order was drawn from.
    pub seed: u64,
    /// Whether the order is shuffled.
    pub shuffle: bool,
    /// Name of the data by content.
    pub fingerprint: Fingerprint,
}

impl LoaderState {
    /// The version written by this program.
    pub(crate) const CURRENT_VERSION: u32 = 1;

    /// Checks that this position means the same batches where the loader now stands at `current`.
    pub(crate) fn check(&self, current: &Self) -> Result<(), DataError> {
        if self.version != Self::CURRENT_VERSION {
            let (found, supported) = (self.version, Self::CURRENT_VERSION);
            return Err(DataError::StateVersion { found, supported });
        }
        if self.fingerprint != current.fingerprint {
            let (saved, current) = (self.fingerprint, current.fingerprint);
            return Err(DataError::ChangedData { saved, current });
        }
        if self.shuffle != current.shuffle {
            return Err(DataError::ChangedOrder {
                key: "`data.shuffle`",
                saved: self.shuffle.to_string(),
                current: current.shuffle.to_string(),
            });
        }
        // Without shuffling the order does not come from the seed.
        if self.shuffle && self.seed != current.seed {
            return Err(DataError::ChangedOrder {
                key: "`run.seed`",
                saved: self.seed.to_string(),
                current: current.seed.to_string(),
            });
        }
        Ok(())
    }
}
