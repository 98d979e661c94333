//! Fused training operations: the arithmetic a training step spends its time in.
//!
//! Every operation is a plain function on Burn tensors and knows no mesh. Each has a *reference* composed of tensor
//! operations, which runs and differentiates on every backend, and kernels with hand-written backwards that save only what
//! they need: for Flex, in `f32` on the CPU (SIMD with run-time dispatch, rayon); for devices of `CubeCL`, in files
//! `cube` and `device`; for NVIDIA GPUs, in files `gpu` and `cuda`. `dispatch` says which a device has. `fused` records
//! them on the tape.
//!
//! In `bf16` and `f16` both compute in `f32` what is summed or exponentiated. The kernels widen their operands and round
//! their result once, to the type of the first operand; losses are always `f32`.
//!
//! A kernel uses the threads of the rayon pool it is called in, so a rank that runs inside its own pool keeps to its cores.
//! Reductions over rows are split by shape, never by who finishes first: results are bitwise repeatable for a thread count.
#![expect(
    clippy::inline_always,
    reason = "a loop is compiled for an instruction set only if it is inlined into the function that enables it"
)]

mod activation;
mod arch;
mod attention;
mod cross_entropy;
#[cfg(feature = "cube")]
mod cube;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
pub(crate) mod dispatch;
mod dropout;
mod embedding;
pub(crate) mod flex;
pub(crate) mod fused;
mod half_precision;
mod linear;
pub(crate) mod matmul;
mod norm;
mod optimizer;
mod product;
mod project;
mod rope;
mod saved;
mod simd;
mod timing;

pub use activation::{gelu, swiglu};
#[cfg(feature = "cuda")]
pub(crate) use attention::Preference as AttentionPreference;
pub use attention::{AttentionOptions, attention, attention_block, attention_block_backward};
pub use cross_entropy::{
    IGNORE_INDEX, cross_entropy, linear_cross_entropy, shard_gradients, shard_maxima, shard_sums,
    tied_linear_cross_entropy,
};
pub use dispatch::{
    Implementation, ImplementationReport, UnavailableImplementation, implementation,
    implementations, with_implementation, with_reference,
};
pub use dropout::{DropoutPosition, dropout};
pub use embedding::embedding;
pub(crate) use linear::column_sums;
pub use linear::{linear, linear_f32};
pub use norm::{add_layer_norm, add_rms_norm, layer_norm, rms_norm};
pub(crate) use optimizer::is_empty;
pub use optimizer::{
    AdamHyper, SgdHyper, accumulate, adamw_step, orthogonalize, sgd_step, sum_of_squares,
    sums_of_squares,
};
pub use project::project;
pub use rope::{RopePositions, RopeTable, rope};
pub use saved::measure as measure_saved_bytes;
pub(crate) use saved::{keep, keep_tensors};
pub use timing::{Timing, TimingSizes, time_operations};
