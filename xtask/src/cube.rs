//! The tests of the `CubeCL` path, on a software Vulkan device: no GPU is needed.

use std::fs;
use std::path::{Path, PathBuf};

use crate::command::{self, root, text};

/// Where Vulkan drivers describe themselves.
const DRIVER_FOLDERS: [&str; 2] = ["/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d"];

/// Optimization of the crates below the shaders: they are built once, compile for long, and these
/// tests spend their time elsewhere.
const LIGHT: [&str; 20] = [
    "burn-cubecl",
    "burn-cubecl-fusion",
    "burn-fusion",
    "cubecl-core",
    "cubecl-opt",
    "cubecl-runtime",
    "cubecl-server",
    "cubecl-std",
    "cubecl-wgpu",
    "cubek-attention",
    "cubek-convolution",
    "cubek-matmul",
    "cubek-reduce",
    "cubek-std",
    "cubek-tile",
    "naga",
    "wgpu",
    "wgpu-core",
    "wgpu-hal",
    "burn-ir",
];

/// Checks that there is a device, then builds and runs the tests. The first build takes long.
pub(crate) fn run() -> Result<(), String> {
    if std::env::var_os("VK_ICD_FILENAMES").is_none() && !has_software_driver() {
        return Err(
            "no software Vulkan driver is installed; on Debian and Ubuntu: apt-get install \
             mesa-vulkan-drivers libvulkan1 (or point VK_ICD_FILENAMES at a driver)"
                .into(),
        );
    }
    let profile = LIGHT.map(|name| format!("profile.dev.package.{name}.opt-level=0"));
    let mut arguments = vec!["test", "--target-dir", "target-cube"];
    arguments.extend(["--config", "profile.dev.package.\"*\".opt-level=1"]);
    for setting in &profile {
        arguments.extend(["--config", setting]);
    }
    arguments.extend(["-p", "dream-trainer", "-p", "dream-train", "--features", "wgpu"]);
    let folder = runtime_folder()?;
    let device = [("CUBECL_WGPU_DEFAULT_DEVICE", "Cpu"), ("XDG_RUNTIME_DIR", text(&folder)?)];
    // The kernels alone, which nothing outside of the crate can call, then what is built of them.
    for tests in [["--lib", "cube::tests"], ["--test", "cube"]] {
        command::run_with("cargo", &[&arguments[..], &tests].concat(), &device)?;
    }
    Ok(())
}

fn has_software_driver() -> bool {
    let files = DRIVER_FOLDERS.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten();
    files.flatten().any(|file| file.file_name().to_string_lossy().starts_with("lvp_icd"))
}

/// Returns the folder that the driver's loader asks for, which a bare machine does not have.
fn runtime_folder() -> Result<PathBuf, String> {
    if let Some(folder) = std::env::var_os("XDG_RUNTIME_DIR")
        && Path::new(&folder).is_dir()
    {
        return Ok(folder.into());
    }
    let folder = root().join("target-cube/runtime");
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok(folder)
}
