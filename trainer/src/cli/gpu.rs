//! What `doctor` says about the GPU devices of this build.

use super::doctor::Finding;
#[cfg(any(feature = "cube", test))]
use super::doctor::{Level, ok};
#[cfg(feature = "cuda")]
use super::{Exit, Failure};
#[cfg(any(feature = "cuda", test))]
use crate::comm::nccl::{OLDEST as OLDEST_NCCL, SHARING_VERSION, dotted};

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

/// Chooses the attention kernels that `DREAM_TRAIN_ATTENTION` names.
///
/// # Errors
///
/// It names none.
#[cfg(feature = "cuda")]
pub(super) fn prefer_attention(name: Option<String>) -> Result<(), Failure> {
    use crate::kernels::AttentionPreference;

    let Some(name) = name else { return Ok(()) };
    let names = AttentionPreference::NAMES;
    let Some((_, preference)) = names.iter().find(|(known, _)| *known == name) else {
        let text = format!(
            "error: `DREAM_TRAIN_ATTENTION={name}` names no attention kernels\n  help: `cudnn`, `own` or `composed`"
        );
        return Err(Failure { text, exit: Exit::Usage });
    };
    preference.set();
    Ok(())
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
    vec![driver, compiler, products(), attention(), nccl(software.nccl), ranks(software.nccl)]
}

/// Says what multiplies matrices.
#[cfg(feature = "cuda")]
fn products() -> Finding {
    if crate::kernels::cuda::blas::is_present() {
        return ok("cublaslt", "libcublasLt");
    }
    missing(
        "cublaslt",
        "no libcublasLt: `CubeCL`'s matrix products are used, which are slower",
        "install the CUDA toolkit's cuBLAS, or put the folder of a libcublasLt.so on LD_LIBRARY_PATH",
    )
}

/// Says which cuDNN attends, if any.
#[cfg(feature = "cuda")]
fn attention() -> Finding {
    use crate::kernels::cuda::cudnn::{dotted, library};

    match library() {
        Ok(found) => {
            let version = dotted(found.version());
            ok(
                "cudnn",
                format!("libcudnn {version}, for attention in 16 bits on capability 9.0 and later"),
            )
        }
        Err(reason) => ok("cudnn", format!("not used ({reason}): attention is by our own kernels")),
    }
}

/// Says which NCCL there is.
#[cfg(any(feature = "cuda", test))]
fn nccl(version: Option<u32>) -> Finding {
    match version {
        Some(version) if version < OLDEST_NCCL => missing(
            "nccl",
            &format!("libnccl {}", dotted(version)),
            "ranks in several processes need NCCL 2.18 or later; without it they are threads",
        ),
        Some(version) => ok("nccl", format!("libnccl {}", dotted(version))),
        None => missing(
            "nccl",
            "no libnccl",
            "ranks in several processes need NCCL: install libnccl2, or put the folder of a libnccl.so on LD_LIBRARY_PATH (the package nvidia-nccl-cu13 of PyPI holds one); without it they are threads",
        ),
    }
}

/// Says what ranks are, and whether several of them can share a GPU.
#[cfg(any(feature = "cuda", test))]
fn ranks(version: Option<u32>) -> Finding {
    let found = match version {
        Some(version) if version >= SHARING_VERSION => {
            "a process for each, over NCCL; several may share a GPU (NCCL_MULTI_RANK_GPU_ENABLE=1, set where this program starts them)"
        }
        Some(version) if version >= OLDEST_NCCL => {
            "a process for each, over NCCL; those that share a GPU must be threads (`device_parameters.ranks = \"threads\"`), or NCCL 2.30 or later"
        }
        _ => "threads of one process, which hand each other device tensors",
    };
    ok("gpu ranks", found)
}

#[cfg(any(feature = "cube", test))]
fn missing(check: &'static str, found: &str, remedy: &str) -> Finding {
    Finding { check, level: Level::Warn, found: found.into(), remedy: Some(remedy.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_nccl_has_its_advice() {
        let rows = [
            (None, Level::Warn, "no libnccl", "threads of one process"),
            (Some(21_602), Level::Warn, "libnccl 2.16.2", "threads of one process"),
            (Some(22_809), Level::Ok, "libnccl 2.28.9", "must be threads"),
            (Some(23_004), Level::Ok, "libnccl 2.30.4", "several may share a GPU"),
        ];
        for (version, level, found, shared) in rows {
            let finding = nccl(version);
            assert_eq!((finding.level, finding.found.as_str()), (level, found));
            assert_eq!(finding.remedy.is_some(), level == Level::Warn, "{found}");
            assert!(ranks(version).found.contains(shared), "{found}");
        }
    }
}
