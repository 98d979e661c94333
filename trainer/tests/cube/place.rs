//! Where these tests compute.

use burn::tensor::{Device, DeviceKind};

pub(crate) fn device() -> Device {
    Device::webgpu(DeviceKind::DefaultDevice)
}
