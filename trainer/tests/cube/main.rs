//! The `CubeCL` path, on whatever device `WebGPU` finds: `cargo xtask cube` runs it on a software Vulkan
//! device.
//!
//! Most of these tests are those of the CPU, on another device: collectives with gradients, split
//! layers and losses, sharded units. Ranks are threads that share the device and its fusion queue.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../tensor_parallel/collectives.rs"]
mod collectives;
mod counters;
mod errors;
#[path = "../tensor_parallel/harness.rs"]
mod harness;
mod kernels;
#[path = "../tensor_parallel/layers.rs"]
mod layers;
#[path = "../tensor_parallel/loss.rs"]
mod loss;
#[path = "../fsdp/model.rs"]
mod model;
mod offload;
#[path = "../fsdp/parity.rs"]
mod parity;
mod place;
#[path = "../../../tests/support/tolerance.rs"]
mod tolerance;
#[path = "../fsdp/unit.rs"]
mod unit;
#[path = "../fsdp/world.rs"]
mod world;
