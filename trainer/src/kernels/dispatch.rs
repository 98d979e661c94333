//! The one place that chooses between reference and kernel.

use std::cell::Cell;
use std::fmt;

use burn::backend::DispatchDevice;
use burn::tensor::{DType, Device};

use super::arch;
use super::half_precision::is_half;

thread_local! {
    static REFERENCE_ONLY: Cell<bool> = const { Cell::new(false) };
}

/// Names an implementation of the operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Implementation {
    /// Composed of Burn's tensor operations.
    Reference,
    /// Flex kernels with 512-bit vectors.
    FlexAvx512,
    /// Flex kernels with 256-bit vectors and fused multiply-add.
    FlexAvx2,
    /// Flex kernels with the 128-bit vectors of ARM.
    FlexNeon,
    /// Flex kernels without vector instructions.
    FlexScalar,
}

impl fmt::Display for Implementation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reference => "reference",
            Self::FlexAvx512 => "flex-avx512",
            Self::FlexAvx2 => "flex-avx2",
            Self::FlexNeon => "flex-neon",
            Self::FlexScalar => "flex-scalar",
        })
    }
}

/// Says what runs where on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImplementationReport {
    /// Runs on the CPU, in `f32`; half-precision operands are widened around it.
    pub cpu_f32: Implementation,
    /// Runs on every other backend where that has no kernels of its own, and for `f64`.
    pub other: Implementation,
    /// Threads of the calling thread's pool.
    pub threads: usize,
}

/// Reports which implementation the calling thread uses.
pub fn implementation() -> ImplementationReport {
    let cpu_f32 = if REFERENCE_ONLY.get() {
        Implementation::Reference
    } else {
        arch::implementation(arch::current())
    };
    ImplementationReport {
        cpu_f32,
        other: Implementation::Reference,
        threads: rayon::current_num_threads(),
    }
}

/// Runs `body` with the reference implementation on the calling thread, for comparison and benchmarks.
///
/// The choice is made when an operation runs forward; its backward follows that choice wherever it runs.
pub fn with_reference<T>(body: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            REFERENCE_ONLY.set(self.0);
        }
    }
    let _restore = Restore(REFERENCE_ONLY.replace(true));
    body()
}

/// Returns the kernels that this machine can run, the one it chooses first.
pub fn implementations() -> Vec<Implementation> {
    arch::available().into_iter().map(arch::implementation).collect()
}

/// Runs `body` in a thread pool of its own, of the size of the calling thread's, whose threads use the kernels of a chosen
/// instruction set: how the narrower ones are tested on a machine that has wider ones.
///
/// Matrix products keep to the instruction set that their library detects.
///
/// # Errors
///
/// The machine lacks that instruction set, or no threads could be started.
pub fn with_implementation<T: Send>(
    implementation: Implementation,
    body: impl FnOnce() -> T + Send,
) -> Result<T, UnavailableImplementation> {
    let unavailable = || UnavailableImplementation { implementation };
    let mut all = arch::available().into_iter();
    let chosen = all.find(|arch| arch::implementation(*arch) == implementation);
    let chosen = chosen.ok_or_else(unavailable)?;
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(rayon::current_num_threads())
        .start_handler(move |_| arch::force(chosen))
        .build()
        .map_err(|_| unavailable())?;
    Ok(pool.install(body))
}

/// A machine cannot run kernels of an instruction set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this machine cannot run the kernels `{implementation}`")]
pub struct UnavailableImplementation {
    /// The kernels asked for.
    pub implementation: Implementation,
}

/// Says whether a differentiable operation on these tensors runs its Flex kernel, around which half-precision operands are
/// widened. Every other element type and backend takes the reference by definition.
pub(crate) fn has_fused_kernel(device: &Device, dtypes: &[DType]) -> bool {
    are_fused(dtypes) && runs_kernels(device)
}

/// Says whether plain arithmetic on these tensors, such as an optimizer's, runs its Flex kernel: in `f32` only.
pub(crate) fn has_kernel(device: &Device, dtypes: &[DType]) -> bool {
    dtypes.iter().all(|dtype| *dtype == DType::F32) && runs_kernels(device)
}

/// Returns whether operations on these tensors run kernels for `CubeCL` devices.
///
/// Only those of NVIDIA do so far: the kernels are written for all, and their tests (`cargo xtask cube`) have to pass on a
/// device first.
#[cfg(feature = "cube")]
pub(crate) fn has_cube_kernel(device: &Device, dtypes: &[DType]) -> bool {
    are_fused(dtypes) && runs_on_nvidia(device)
}

/// Returns whether products of these tensors go through cuBLASLt.
#[cfg(feature = "cuda")]
pub(crate) fn has_products(device: &Device, dtypes: &[DType]) -> bool {
    has_cube_kernel(device, dtypes) && super::cuda::blas::is_present()
}

/// Returns whether operations on a device may run kernels of an NVIDIA GPU, which NVRTC compiles.
#[cfg(feature = "cuda")]
pub(crate) fn has_gpu_kernels(device: &Device) -> bool {
    runs_on_nvidia(device) && super::cuda::module::has_compiler()
}

/// Returns whether fused operations have kernels for these types.
fn are_fused(dtypes: &[DType]) -> bool {
    dtypes.iter().all(|dtype| *dtype == DType::F32 || is_half(*dtype))
}

#[cfg(feature = "cube")]
fn runs_on_nvidia(device: &Device) -> bool {
    let cuda = |device: &DispatchDevice| {
        matches!(device, DispatchDevice::Cube(burn_cubecl::CubeDevice::Cuda(_)))
    };
    !REFERENCE_ONLY.get() && cuda(device.clone().inner().as_dispatch())
}

fn runs_kernels(device: &Device) -> bool {
    !REFERENCE_ONLY.get() && matches!(device.clone().inner().as_dispatch(), DispatchDevice::Flex(_))
}
