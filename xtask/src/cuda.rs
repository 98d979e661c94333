//! The CUDA feature where no LLVM can be downloaded.
//!
//! `CubeCL`'s CUDA crate always depends on its LLVM compiler, whose build script fetches a prebuilt
//! LLVM. With kernels compiled as CUDA C++ by NVRTC that compiler is never called, so a stand-in
//! (`xtask/llvm-stub`) takes its place, for these tasks alone.

use std::fs;

use crate::command::{self, root, text};

/// Largest binary, stripped.
const MAX_BYTES: u64 = 72 << 20;

/// Where what is built with the stand-in stays apart from everything else.
const FOLDER: &str = "target-cuda";
const FEATURES: &str = "cuda,cuda-cpp";
const PATCH: &str = "patch.crates-io.cubecl-llvm.path=\"xtask/llvm-stub\"";

/// Crates that write kernels, once each, and whose code is large: the release build makes them small.
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
const LIBRARIES: [&str; 4] = ["libcuda.so", "libnvrtc.so", "libnccl.so", "libcublasLt.so"];

/// Checks and lints everything with the CUDA feature, beside what [`super::check`] has compiled.
pub(crate) fn check() -> Result<(), String> {
    let what = ["clippy", "--workspace", "--all-targets", "--features", FEATURES];
    with_stub(&[&what[..], &["--", "-D", "warnings"]].concat(), &[])
}

/// Builds the program in release mode, checks its size and asks its `doctor`.
pub(crate) fn offline() -> Result<(), String> {
    let sizes = SMALL.iter().flat_map(|name| {
        let profile = format!("profile.release.package.{name}");
        [format!("{profile}.opt-level=\"s\""), format!("{profile}.codegen-units=1")]
    });
    let sizes: Vec<String> = sizes.chain(["profile.release.strip=true".to_owned()]).collect();
    let sizes = sizes.iter().flat_map(|setting| ["--config", setting]);
    let what = ["rustc", "--release", "-p", "dream-train", "--bin", "dream-train"];
    let with = ["--target-dir", FOLDER, "--features", FEATURES];
    // Functions that came out equal are kept once.
    let link = ["--", "-C", "link-arg=-Wl,--icf=all"];
    let build: Vec<&str> = what.into_iter().chain(with).chain(sizes).chain(link).collect();
    with_stub(&build, &[])?;
    let binary = root().join(FOLDER).join("release/dream-train");
    let size = fs::metadata(&binary).map_err(|error| format!("{}: {error}", binary.display()))?;
    if size.len() > MAX_BYTES {
        return Err(format!("the binary has {} bytes, more than {MAX_BYTES}", size.len()));
    }
    command::run(text(&binary)?, &["doctor"])
}

/// Links the program and tests CUDA and NCCL where an emulated GPU takes the place of NVIDIA's libraries.
///
/// Nothing is optimized, because building takes longer than running, and kernels are not tuned: to time
/// them on such a GPU takes minutes and says nothing.
pub(crate) fn emulated(filter: Option<&str>) -> Result<(), String> {
    let plain = [
        "--config",
        "profile.dev.opt-level=0",
        "--config",
        "profile.dev.debug=false",
        "--config",
        "profile.dev.package.\"*\".opt-level=0",
        // It multiplies matrices.
        "--config",
        "profile.dev.package.emulated-gpu.opt-level=3",
        "--target-dir",
        FOLDER,
    ];
    let library = ["build", "-p", "emulated-gpu"];
    command::run("cargo", &[&library[..], &plain].concat())?;
    let folder = root().join(FOLDER).join("emulated");
    let told = |error: std::io::Error| format!("{}: {error}", folder.display());
    let headers = folder.join("cuda/include");
    fs::create_dir_all(&headers).map_err(told)?;
    fs::write(headers.join("cuda_runtime.h"), "").map_err(told)?;
    let library = root().join(FOLDER).join("debug/libemulated_gpu.so");
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
    let tests = ["test", "-p", "dream-train", "--test", "nccl"];
    let features = ["--features", "dream-trainer/cuda-cpp"];
    let filter: Vec<&str> = filter.into_iter().collect();
    with_stub(&[&tests[..], &features, &plain, &filter].concat(), &variables)
}

/// Runs cargo with the stand-in. The lock file names the real crate, so it is put back afterwards.
fn with_stub(arguments: &[&str], variables: &[(&str, &str)]) -> Result<(), String> {
    let lock = root().join("Cargo.lock");
    let told = |error| format!("{}: {error}", lock.display());
    let kept = fs::read(&lock).map_err(told)?;
    // Behind the first word: settings before it are lost where others follow.
    let (first, rest) = arguments.split_at(1);
    let words = [first, &["--config", PATCH], rest].concat();
    let outcome = command::run_with("cargo", &words, variables);
    fs::write(&lock, kept).map_err(told)?;
    outcome
}
