//! Normalization over the last dimension: root-mean-square norm and layer norm, alone and of a sum.

mod add;
#[cfg(feature = "cube")]
mod cube;
#[cfg(feature = "cube")]
mod device;
mod layer_norm;
mod rms_norm;

pub use add::{add_layer_norm, add_rms_norm};
pub use layer_norm::layer_norm;
pub use rms_norm::rms_norm;
