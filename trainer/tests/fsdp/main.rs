//! Sharded training equals training on one rank: numbers, memory, communication.

mod memory;
mod model;
mod parity;
mod traffic;
mod world;
