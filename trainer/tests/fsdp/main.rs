//! Sharded training equals training on one rank: numbers, memory, communication.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod memory;
mod model;
mod overlap;
mod parity;
mod place;
#[path = "../../../tests/support/tolerance.rs"]
mod tolerance;
mod traffic;
mod unit;
mod world;
