//! Where a rank computes.

use burn::tensor::Device;

use super::TrainError;
use crate::config::DeviceKind;
use crate::world::World;

/// Returns the device of a rank: the processor, or the GPU with the rank's number on its node.
/// Where a node has fewer GPUs than ranks, the ranks go around them.
///
/// # Errors
///
/// This machine has no GPU.
///
/// # Panics
///
/// If this build has no such device; plans that ask for one are refused.
pub(crate) fn device_of(kind: DeviceKind, world: &World) -> Result<Device, TrainError> {
    match kind {
        DeviceKind::Cpu => Ok(Device::flex()),
        DeviceKind::Wgpu => wgpu(world),
        DeviceKind::Cuda => cuda(world),
    }
}

/// WebGPU chooses the adapter; all ranks of a process share it.
#[cfg(feature = "wgpu")]
fn wgpu(world: &World) -> Result<Device, TrainError> {
    match Device::enumerate(burn::tensor::DeviceType::Wgpu).len() {
        0 => Err(TrainError::NoGpu { rank: world.rank }),
        _ => Ok(Device::wgpu(burn::tensor::DeviceKind::DefaultDevice)),
    }
}

#[cfg(not(feature = "wgpu"))]
fn wgpu(_: &World) -> Result<Device, TrainError> {
    unreachable!("plans for WebGPU are refused by builds without it")
}

#[cfg(feature = "cuda")]
fn cuda(world: &World) -> Result<Device, TrainError> {
    match Device::enumerate(burn::tensor::DeviceType::Cuda).len() {
        0 => Err(TrainError::NoGpu { rank: world.rank }),
        visible => Ok(Device::cuda(world.local_rank % visible)),
    }
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: &World) -> Result<Device, TrainError> {
    unreachable!("plans for CUDA are refused by builds without it")
}

/// Returns the bytes that this process has reserved on a GPU, in use or kept for later; nothing for the
/// processor, whose memory is the process's.
#[cfg(feature = "cube")]
pub(crate) fn reserved_bytes(device: &Device) -> Option<u64> {
    use burn::backend::DispatchDevice;
    use burn_cubecl::cubecl::MemoryScope;

    match device.clone().inner().as_dispatch() {
        DispatchDevice::Cube(device) => {
            Some(device.client().memory_report(MemoryScope::Device).usage().bytes_reserved)
        }
        _ => None,
    }
}

#[cfg(not(feature = "cube"))]
pub(crate) fn reserved_bytes(_: &Device) -> Option<u64> {
    None
}
