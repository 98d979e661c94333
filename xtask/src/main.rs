//! Checks, benchmarks and generated documentation of dream-train:
//! `cargo xtask check|mpi|bench|faults|cube|cuda-check|cuda-offline|cuda-emulated|gpu|docs`.

mod bench;
mod check;
mod claims;
mod command;
mod cube;
mod cuda;
mod docs;
#[cfg(target_os = "linux")]
mod faults;
mod gpu;

use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
#[command(about)]
enum Task {
    /// Formatting, lints, tests, documentation and tidiness: what CI runs
    Check,
    /// Lints and tests of the feature `mpi`, under `mpirun`
    Mpi,
    /// The tests of GPU devices, on a software Vulkan device
    Cube,
    /// Checks and lints the CUDA feature without LLVM
    CudaCheck,
    /// Builds the program with CUDA, without LLVM
    CudaOffline,
    /// Links the program with CUDA and tests it with NCCL on an emulated GPU
    CudaEmulated {
        /// Runs the tests alone whose name contains this
        filter: Option<String>,
    },
    /// On a machine with a GPU: tests, parity, speed and a profile, in less than ten minutes
    Gpu(gpu::GpuArgs),
    /// Benchmarks beside other programs: whole steps, operations, several ranks; all if none is named
    Bench {
        #[command(subcommand)]
        bench: Option<bench::Bench>,
    },
    /// Does to small runs what goes wrong in long ones, and compares what is left with undisturbed runs
    #[cfg(target_os = "linux")]
    Faults(faults::FaultsArgs),
    /// Writes generated documentation
    Docs,
}

#[expect(clippy::print_stderr, reason = "a developer tool speaks to its developer")]
fn main() -> ExitCode {
    let result = match Task::parse() {
        Task::Check => check::run(),
        Task::Mpi => check::run_mpi(),
        Task::Cube => cube::run(),
        Task::CudaCheck => cuda::check(),
        Task::CudaOffline => cuda::offline(),
        Task::CudaEmulated { filter } => cuda::emulated(filter.as_deref()),
        Task::Gpu(args) => gpu::run_all(&args),
        Task::Bench { bench } => bench::run_bench(bench),
        #[cfg(target_os = "linux")]
        Task::Faults(args) => faults::run(&args),
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
