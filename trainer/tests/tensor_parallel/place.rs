//! Where these tests compute.

use burn::tensor::Device;

pub(crate) fn device() -> Device {
    Device::flex()
}
