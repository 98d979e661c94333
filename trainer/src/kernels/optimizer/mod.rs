//! Optimizer passes over flat parameters: one sweep updates a parameter and its moments.
//!
//! All tensors are plain ones, outside autodiff. Inputs are consumed and returned, so that unshared buffers are updated in
//! place.

mod hyper;
mod orthogonalize;
mod reduce;
mod reference;
mod step;

pub use hyper::{AdamHyper, SgdHyper};
pub use orthogonalize::orthogonalize;
pub use reduce::{accumulate, sum_of_squares, sums_of_squares};
pub use step::{adamw_step, sgd_step};
