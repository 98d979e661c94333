//! The CUDA feature where no LLVM can be downloaded.
//!
//! `CubeCL`'s CUDA crate always depends on its LLVM compiler, whose build script fetches a prebuilt
//! LLVM. With kernels compiled as CUDA C++ by NVRTC that compiler is never called, so a stand-in
//! (`xtask/llvm-stub`) takes its place, for these tasks alone.

use std::fs;
use std::path::Path;

use crate::command::{self, root};

/// Largest binary, stripped.
const MAX_BYTES: u64 = 64 << 20;

const FEATURES: &str = "cuda,cuda-cpp";
const PATCH: &str = "patch.crates-io.cubecl-llvm.path=\"xtask/llvm-stub\"";

/// Crates that write kernels, once each, and whose code is large: they are optimized for size.
const SMALL: [&str; 10] = [
    "burn-cubecl",
    "burn-cubecl-fusion",
    "burn-dispatch",
    "cubek-attention",
    "cubek-convolution",
    "cubek-matmul",
    "cubek-quant",
    "cubek-reduce",
    "cubek-std",
    "cubek-tile",
];

/// Names by which the program looks for NVIDIA's libraries.
const LIBRARIES: [&str; 3] = ["libcuda.so", "libnvrtc.so", "libnccl.so"];

/// Type-checks everything with the CUDA feature.
pub(crate) fn check() -> Result<(), String> {
    with_stub(&["check", "--workspace", "--all-targets"], &[FEATURES], &[])
}

/// Builds the program in release mode, checks its size and asks its `doctor`.
pub(crate) fn offline() -> Result<(), String> {
    // Functions that came out equal are kept once.
    let link = [FEATURES, "--", "-C", "link-arg=-Wl,--icf=all"];
    let what = ["rustc", "--release", "-p", "dream-train", "--bin", "dream-train"];
    with_stub(&what, &link, &[])?;
    let binary = root().join("target-cuda/release/dream-train");
    let size = fs::metadata(&binary).map_err(|error| format!("{}: {error}", binary.display()))?;
    if size.len() > MAX_BYTES {
        return Err(format!("the binary has {} bytes, more than {MAX_BYTES}", size.len()));
    }
    command::run(text(&binary)?, &["doctor"])
}

/// Tests CUDA and NCCL where an emulated GPU takes the place of NVIDIA's libraries. Kernels are not tuned:
/// to time them on such a GPU takes minutes and says nothing.
pub(crate) fn emulated() -> Result<(), String> {
    let build = ["build", "--release", "-p", "emulated-gpu", "--target-dir", "target-cuda"];
    command::run("cargo", &build)?;
    let folder = root().join("target-cuda/emulated");
    let told = |error: std::io::Error| format!("{}: {error}", folder.display());
    let headers = folder.join("cuda/include");
    fs::create_dir_all(&headers).map_err(told)?;
    fs::write(headers.join("cuda_runtime.h"), "").map_err(told)?;
    let library = root().join("target-cuda/release/libemulated_gpu.so");
    for name in LIBRARIES.map(|name| folder.join(name)) {
        if name.exists() {
            fs::remove_file(&name).map_err(told)?;
        }
        // Links, not copies: it is one library, opened under three names.
        fs::hard_link(&library, &name).map_err(told)?;
    }
    let (cuda, kernels) = (folder.join("cuda"), folder.join("kernels"));
    let variables = [
        ("LD_LIBRARY_PATH", text(&folder)?),
        ("CUDA_PATH", text(&cuda)?),
        ("EMULATED_GPU_CACHE", text(&kernels)?),
    ];
    let tests = ["test", "--release", "-p", "dream-train", "--test", "nccl"];
    with_stub(&tests, &["dream-trainer/cuda-cpp"], &variables)
}

fn text(path: &Path) -> Result<&str, String> {
    path.to_str().ok_or_else(|| "the folder's name is not UTF-8".to_owned())
}

/// Runs cargo with the stand-in, in a target folder of its own, with these features and what is given
/// after them. The lock file names the real crate, so it is put back afterwards.
fn with_stub(
    arguments: &[&str],
    features: &[&str],
    variables: &[(&str, &str)],
) -> Result<(), String> {
    let lock = root().join("Cargo.lock");
    let told = |error| format!("{}: {error}", lock.display());
    let kept = fs::read(&lock).map_err(told)?;
    let profile_changes = SMALL.iter().flat_map(|name| {
        let profile = format!("profile.release.package.{name}");
        [format!("{profile}.opt-level=\"s\""), format!("{profile}.codegen-units=1")]
    });
    let profile_changes: Vec<String> =
        profile_changes.chain(["profile.release.strip=true".to_owned()]).collect();
    let profile_changes = profile_changes.iter().flat_map(|setting| ["--config", setting]);
    let shared = ["--target-dir", "target-cuda", "--config", PATCH];
    let words =
        arguments.iter().copied().chain(profile_changes).chain(shared).chain(["--features"]);
    let words: Vec<&str> = words.chain(features.iter().copied()).collect();
    let outcome = command::run_with("cargo", &words, variables);
    fs::write(&lock, kept).map_err(told)?;
    outcome
}
