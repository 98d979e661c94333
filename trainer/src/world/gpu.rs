//! What of NVIDIA's software this machine has. Nothing of it is linked: it is opened when needed.
#![expect(unsafe_code, reason = "opening a library runs its start-up code, which may do anything")]

use std::path::PathBuf;

/// The libraries and files that CUDA ranks need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuSoftware {
    /// Whether the driver's library, `libcuda`, can be opened.
    pub driver: bool,
    /// Whether the run-time compiler, `libnvrtc`, can be opened.
    pub nvrtc: bool,
    /// The folder with the toolkit's headers, if there is one.
    pub headers: Option<PathBuf>,
    /// The version of `libnccl` as one number, such as 23004 for 2.30.4, if it can be opened.
    pub nccl: Option<u32>,
}

impl GpuSoftware {
    /// Looks for everything.
    pub fn find() -> Self {
        // SAFETY: NVIDIA's libraries are made to be opened like this, and do nothing until called.
        let (driver, nvrtc, nccl) = unsafe {
            (
                cudarc::driver::sys::is_culib_present(),
                cudarc::nvrtc::sys::is_culib_present(),
                cudarc::nccl::sys::is_culib_present(),
            )
        };
        let headers = cubecl::cuda::install::cuda_path().map(|path| path.join("include"));
        let version = || u32::try_from(cudarc::nccl::result::get_nccl_version().ok()?).ok();
        Self {
            driver,
            nvrtc,
            headers: headers.filter(|folder| folder.join("cuda_runtime.h").exists()),
            nccl: if nccl { version() } else { None },
        }
    }
}

/// Returns the number of GPUs this process sees; starts the driver, if there is one.
pub fn visible_gpus() -> usize {
    // SAFETY: as above.
    if !unsafe { cudarc::driver::sys::is_culib_present() } {
        return 0;
    }
    burn::tensor::Device::enumerate(burn::tensor::DeviceType::Cuda).len()
}

/// Returns the version of NCCL as one number, if this machine has it.
pub fn nccl_version() -> Option<u32> {
    GpuSoftware::find().nccl
}
