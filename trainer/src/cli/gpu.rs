//! What `doctor` says about the GPU devices of this build.

use super::doctor::Finding;
#[cfg(feature = "cube")]
use super::doctor::{Level, ok};

/// Returns a finding for each part of every GPU backend that was built in.
pub(super) fn findings() -> Vec<Finding> {
    #[cfg_attr(not(feature = "cube"), expect(unused_mut, reason = "a device adds its own"))]
    let mut findings = Vec::new();
    #[cfg(feature = "wgpu")]
    findings.push(wgpu());
    #[cfg(feature = "cuda")]
    findings.extend(cuda());
    findings
}

#[cfg(feature = "wgpu")]
fn wgpu() -> Finding {
    match burn::tensor::Device::enumerate(burn::tensor::DeviceType::Wgpu).len() {
        0 => missing("wgpu", "no adapter", "install a Vulkan driver, such as mesa-vulkan-drivers"),
        found => ok("wgpu", format!("{found} adapters; `CUBECL_WGPU_DEFAULT_DEVICE` chooses")),
    }
}

#[cfg(feature = "cuda")]
fn cuda() -> Vec<Finding> {
    use crate::world::GpuSoftware;

    let software = GpuSoftware::find();
    let gpus = burn::tensor::Device::enumerate(burn::tensor::DeviceType::Cuda).len();
    let driver = match (software.driver, gpus) {
        (false, _) => missing("driver", "no libcuda", "install the NVIDIA driver"),
        (true, 0) => missing("driver", "libcuda, but no GPU", "check `nvidia-smi`"),
        (true, gpus) => ok("driver", format!("libcuda, {gpus} GPUs")),
    };
    // Kernels are compiled either as CUDA C++ by NVRTC or by the LLVM in the binary.
    let compiler = if cfg!(feature = "cuda-cpp") {
        match (software.nvrtc, software.headers) {
            (false, _) => missing("nvrtc", "no libnvrtc", "install the CUDA toolkit's NVRTC"),
            (true, None) => missing(
                "nvrtc",
                "libnvrtc, but no cuda_runtime.h",
                "install the CUDA toolkit's headers and set CUDA_PATH to its folder",
            ),
            (true, Some(folder)) => {
                ok("nvrtc", format!("libnvrtc, headers in {}", folder.display()))
            }
        }
    } else {
        ok("nvrtc", "not needed: kernels are compiled by LLVM")
    };
    let nccl = match software.nccl {
        Some(version) => {
            let (major, minor) = (version / 10_000, version / 100 % 100);
            ok("nccl", format!("libnccl {major}.{minor}, which this version does not use"))
        }
        None => ok("nccl", "no libnccl, which this version does not use"),
    };
    let ranks = ok("gpu ranks", "threads of one process, which hand each other device tensors");
    vec![driver, compiler, nccl, ranks]
}

#[cfg(feature = "cube")]
fn missing(check: &'static str, found: &str, remedy: &str) -> Finding {
    Finding { check, level: Level::Warn, found: found.into(), remedy: Some(remedy.into()) }
}
