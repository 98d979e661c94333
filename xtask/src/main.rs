//! Checks, benchmarks and generated documentation of dream-train: `cargo xtask check|mpi|bench|docs`.

mod bench;
mod check;
mod command;
mod docs;

use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
#[command(about)]
enum Task {
    /// Formatting, lints, tests, documentation and tidiness: what CI runs
    Check,
    /// Lints and tests of the feature `mpi`, under `mpirun`
    Mpi,
    /// Step times beside a bare loop and beside `PyTorch`
    Bench(bench::BenchArgs),
    /// Writes generated documentation
    Docs,
}

#[expect(clippy::print_stderr, reason = "a developer tool speaks to its developer")]
fn main() -> ExitCode {
    let result = match Task::parse() {
        Task::Check => check::run(),
        Task::Mpi => check::run_mpi(),
        Task::Bench(args) => bench::run_bench(&args),
        Task::Docs => docs::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}
