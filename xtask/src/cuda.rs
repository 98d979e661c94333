//! The CUDA feature where no LLVM can be downloaded.
//!
//! `CubeCL`'s CUDA crate always depends on its LLVM compiler, whose build script fetches a prebuilt
//! LLVM. With kernels compiled as CUDA C++ by NVRTC that compiler is never called, so a stand-in
//! (`xtask/llvm-stub`) takes its place, for these tasks alone.

use std::fs;

use crate::command::{self, root};

/// Largest binary, stripped.
const MAX_BYTES: u64 = 64 << 20;

const PATCH: &str = "patch.crates-io.cubecl-llvm.path=\"xtask/llvm-stub\"";

/// Type-checks everything with the CUDA feature.
pub(crate) fn check() -> Result<(), String> {
    with_stub(&["check", "--workspace", "--all-targets"])
}

/// Builds the program in release mode, checks its size and asks its `doctor`.
pub(crate) fn offline() -> Result<(), String> {
    with_stub(&["build", "--release", "--config", "profile.release.strip=true"])?;
    let binary = root().join("target-cuda/release/dream-train");
    let size = fs::metadata(&binary).map_err(|error| format!("{}: {error}", binary.display()))?;
    if size.len() > MAX_BYTES {
        return Err(format!("the binary has {} bytes, more than {MAX_BYTES}", size.len()));
    }
    command::run(binary.to_str().ok_or("the folder's name is not UTF-8")?, &["doctor"])
}

/// Runs cargo with the stand-in, in a target folder of its own. The lock file names the real crate,
/// so it is put back afterwards.
fn with_stub(arguments: &[&str]) -> Result<(), String> {
    let lock = root().join("Cargo.lock");
    let told = |error| format!("{}: {error}", lock.display());
    let kept = fs::read(&lock).map_err(told)?;
    let shared = ["--target-dir", "target-cuda", "--features", "cuda,cuda-cpp", "--config", PATCH];
    let outcome = command::run("cargo", &[arguments, &shared].concat());
    fs::write(&lock, kept).map_err(told)?;
    outcome
}
