//! How large a model may be, so that listing its parameters ends and no product of sizes overflows.

use crate::ModelError;

/// Most parameters, 2^48: a petabyte of `f32`.
pub(crate) const MOST_PARAMETERS: f64 = 281_474_976_710_656.0;
/// Most blocks or layers; each has modules of its own, also where nothing is computed.
pub(crate) const MOST_BLOCKS: usize = 10_000;
/// Largest single size: tensors count their elements, and tokens have their ids, in 32 bits.
const MOST: usize = i32::MAX as usize;

/// Refuses a model that cannot be described and names the size to blame. `blocks` is the number of
/// blocks under its key, `sizes` holds all others; `parameters` is their number, which may have been
/// rounded.
pub(crate) fn check(
    blocks: (&'static str, usize),
    sizes: &[(&'static str, usize)],
    parameters: f64,
) -> Result<(), ModelError> {
    let largest = sizes.iter().copied().max_by_key(|(_, value)| *value).unwrap_or(blocks);
    let to_blame = if blocks.1 > MOST_BLOCKS {
        blocks
    } else if largest.1 > MOST || parameters > MOST_PARAMETERS {
        largest
    } else {
        return Ok(());
    };
    let (key, value) = to_blame;
    Err(ModelError::TooLarge { key, value, parameters })
}
