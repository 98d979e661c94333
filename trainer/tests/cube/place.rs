//! Where these tests compute.

use burn::tensor::{Device, DeviceKind};

pub(crate) fn device() -> Device {
    Device::wgpu(DeviceKind::DefaultDevice)
}
