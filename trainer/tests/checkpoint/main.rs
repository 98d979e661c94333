//! Checkpoints on disk: round trips over any sharding, crashes, damage, retention and Hugging Face
//! directories.
#![expect(clippy::unwrap_used, reason = "tests")]

mod blocks;
mod crash;
mod damage;
mod fixture;
mod fuzz;
mod hf;
mod round_trip;
