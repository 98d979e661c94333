//! Burn's internals, for everything above: tensors of any rank, the queues of devices, the GPU's driver.
//!
//! A new version of Burn or `CubeCL` changes this folder and the extension traits that use it; collectives,
//! kernels and parallelisms import [`Erased`] and what stands beside it from here.
//!
//! | file | holds |
//! | --- | --- |
//! | `erased` | float tensors without their rank, and `Bridge` between them and a backend's primitives |
//! | `cube` | in and out of the fusion queue of a `CubeCL` device |
//! | `driver` | streams, events and memory of NVIDIA's driver, and those of `CubeCL` |

#[cfg(feature = "cube")]
mod cube;
#[cfg(feature = "cuda")]
pub(crate) mod driver;
mod erased;

#[cfg(feature = "cube")]
pub(crate) use cube::{resolve_int, shaped};
pub use erased::Erased;
#[cfg(feature = "cube")]
pub(crate) use erased::resolve;
pub(crate) use erased::{Bridge, Settled, is_host};
