//! Data: what a `[data]` table means, what batches hold, and that no rank count, restart or damaged
//! file changes or crashes them.
#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps an error")]

mod cli;
mod config;
mod documents;
mod fixture;
mod loader;
mod permutation;
mod prefetch;
mod prepare;
mod robustness;
mod tokens;
