//! The compiler of CUDA C++: the system's C++ compiler, with headers in which a block of threads is a
//! loop.

use std::collections::hash_map::DefaultHasher;
use std::ffi::{CStr, CString, c_char, c_int};
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

const SUCCESS: c_int = 0;
const COMPILATION: c_int = 6;

/// Headers, with the names by which they are included.
const HEADERS: [(&str, &str); 5] = [
    ("device.h", include_str!("../include/device.h")),
    ("half.h", include_str!("../include/half.h")),
    ("cuda_fp16.h", "#include \"half.h\"\n"),
    ("cuda_bf16.h", "#include \"half.h\"\n"),
    ("cuda_runtime.h", ""),
];

/// A source on its way through the compiler.
pub struct Program {
    source: String,
    /// Path of the library.
    image: CString,
    log: CString,
}

/// Returns the folder of headers and compiled kernels.
fn folder() -> PathBuf {
    let chosen = std::env::var_os("EMULATED_GPU_CACHE").map(PathBuf::from);
    chosen.unwrap_or_else(|| std::env::temp_dir().join("emulated-gpu"))
}

impl Program {
    /// Compiles, unless the same was compiled before.
    fn compile(&self) -> Result<PathBuf, String> {
        let text = translate(&self.source)?;
        let mut hasher = DefaultHasher::new();
        (&text, HEADERS).hash(&mut hasher);
        let (folder, name) = (folder(), format!("{:016x}", hasher.finish()));
        let library = folder.join(format!("{name}.so"));
        if library.exists() {
            return Ok(library);
        }
        let told = |error: std::io::Error| format!("{}: {error}", folder.display());
        // Several processes may compile the same kernel: each writes files of its own.
        let own = folder.join(format!("{name}.{}", std::process::id()));
        fs::create_dir_all(&own).map_err(told)?;
        for (header, text) in HEADERS {
            fs::write(own.join(header), text).map_err(told)?;
        }
        let (source, object) = (own.join("kernel.cpp"), own.join("kernel.so"));
        fs::write(&source, text).map_err(told)?;
        run_compiler(&own, &source, &object)?;
        fs::rename(&object, &library).map_err(told)?;
        fs::remove_dir_all(&own).map_err(told)?;
        Ok(library)
    }
}

fn run_compiler(folder: &Path, source: &Path, library: &Path) -> Result<(), String> {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    let mut command = Command::new(&compiler);
    command.args(["-std=c++20", "-O1", "-fPIC", "-shared", "-fno-strict-aliasing", "-w", "-I"]);
    command.arg(folder).arg(source).arg("-o").arg(library);
    let output = command.output().map_err(|error| format!("{compiler}: {error}"))?;
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(log) }
}

/// Turns a source of `CubeCL` with one kernel into C++.
fn translate(source: &str) -> Result<String, String> {
    let (_, head) = source.split_once("__global__").ok_or("the source has no kernel")?;
    let (_, head) = head.split_once("__launch_bounds__(").ok_or("a kernel has launch bounds")?;
    let (_, head) = head.split_once(')').ok_or("a parenthesis is missing")?;
    let (head, _) = head.split_once('(').ok_or("a kernel has arguments")?;
    let name = head.split_whitespace().next_back().ok_or("a kernel has a name")?;
    let waits = source.contains("__sync") || source.contains("_sync(");
    let (includes, lines): (Vec<&str>, Vec<&str>) =
        source.lines().partition(|line| line.starts_with("#include"));
    let translated = |line: &str| atomic(line).or_else(|| shared(line));
    let lines = lines.into_iter().map(|line| translated(line).unwrap_or_else(|| line.to_owned()));
    let (includes, body) = (includes.join("\n"), lines.collect::<Vec<_>>().join("\n"));
    Ok(format!(
        "#define EMULATED_WAITS {waits}\n#include \"device.h\"\n{includes}\n\
         namespace kernel {{\n{body}\n}}\nEMULATED_KERNEL(kernel::{name})\n"
    ))
}

/// Replaces an atomic operation, which `CubeCL` writes in assembly:
/// `asm volatile("atom.relaxed.add.f32 %0, [%1], %2;" : "=f"(result) : "l"(place), "f"(value) );`
fn atomic(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("asm volatile(\"atom.relaxed.")?;
    let (operation, rest) = rest.split_once('.')?;
    let operands: Vec<&str> =
        rest.split('(').skip(1).filter_map(|part| part.split(')').next()).collect();
    let [result, place, value] = operands[..] else { return None };
    Some(format!("{result} = emulated::atomic_{operation}({place}, {value});"))
}

/// Replaces the declaration of a block's shared memory, `extern __shared__ .. char name[];`.
fn shared(line: &str) -> Option<String> {
    let (before, declaration) = line.split_once("extern __shared__")?;
    let (declaration, after) = declaration.split_once("[];")?;
    let name = declaration.split_whitespace().next_back()?;
    Some(format!(
        "{before}char* {name} = emulated::shared;{}",
        shared(after).unwrap_or(after.to_owned())
    ))
}

fn text(text: &str) -> CString {
    CString::new(text.replace('\0', "")).unwrap_or_default()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvrtcVersion(major: *mut c_int, minor: *mut c_int) -> c_int {
    unsafe { (*major, *minor) = (13, 0) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn nvrtcGetErrorString(code: c_int) -> *const c_char {
    if code == SUCCESS { c"success".as_ptr() } else { c"the C++ compiler failed".as_ptr() }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvrtcCreateProgram(
    program: *mut *mut Program,
    source: *const c_char,
    _name: *const c_char,
    _headers: c_int,
    _texts: *const *const c_char,
    _names: *const *const c_char,
) -> c_int {
    let source = unsafe { CStr::from_ptr(source) }.to_string_lossy().into_owned();
    let made = Program { source, image: CString::default(), log: CString::default() };
    unsafe { *program = Box::into_raw(Box::new(made)) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvrtcCompileProgram(
    program: *mut Program,
    _options: c_int,
    _texts: *const *const c_char,
) -> c_int {
    let program = unsafe { &mut *program };
    match program.compile() {
        Ok(library) => {
            program.image = text(&library.to_string_lossy());
            SUCCESS
        }
        Err(log) => {
            program.log = text(&log);
            COMPILATION
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvrtcDestroyProgram(program: *mut *mut Program) -> c_int {
    drop(unsafe { Box::from_raw(*program) });
    SUCCESS
}

unsafe fn size(of: &CStr, bytes: *mut usize) -> c_int {
    unsafe { *bytes = of.to_bytes_with_nul().len() };
    SUCCESS
}

unsafe fn write(from: &CStr, to: *mut c_char) -> c_int {
    let bytes = from.to_bytes_with_nul();
    unsafe { bytes.as_ptr().cast::<c_char>().copy_to(to, bytes.len()) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvrtcGetPTXSize(program: *const Program, bytes: *mut usize) -> c_int {
    unsafe { size(&(*program).image, bytes) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvrtcGetPTX(program: *const Program, to: *mut c_char) -> c_int {
    unsafe { write(&(*program).image, to) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvrtcGetProgramLogSize(
    program: *const Program,
    bytes: *mut usize,
) -> c_int {
    unsafe { size(&(*program).log, bytes) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvrtcGetProgramLog(program: *const Program, to: *mut c_char) -> c_int {
    unsafe { write(&(*program).log, to) }
}
