//! `dream-train`: the command line with the recipes of `dream-models`.

use std::process::ExitCode;

/// Keeps large freed buffers: a step allocates the same shapes again and again, and fresh pages
/// cost faults.
#[global_allocator]
static ALLOCATOR: dream_trainer::Allocator = dream_trainer::Allocator;

fn main() -> ExitCode {
    dream_trainer::cli::main(dream_models::recipes())
}
