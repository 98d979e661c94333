//! Optimizer passes over flat parameters: one sweep updates a parameter and its moments.
//!
//! All tensors are plain ones, outside autodiff. Inputs are consumed and returned, so that unshared buffers are updated in
//! place.

#[cfg(feature = "cube")]
mod cube;
mod hyper;
mod orthogonalize;
mod reduce;
mod reference;
mod step;

pub use hyper::{AdamHyper, SgdHyper};
pub use orthogonalize::orthogonalize;
pub use reduce::{accumulate, sum_of_squares, sums_of_squares};
pub use step::{adamw_step, sgd_step};

use burn::tensor::Tensor;

/// Tells whether a shard has no elements. A GPU must not be given work on it: what is fused with
/// it into one kernel would not run either.
pub(crate) fn is_empty(tensor: &Tensor<1>) -> bool {
    tensor.dims()[0] == 0
}
