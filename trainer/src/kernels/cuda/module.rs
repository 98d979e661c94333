//! Kernels in CUDA C++: compiled by NVRTC for the GPU at hand when they are first used, then kept.
#![expect(unsafe_code, reason = "calls to NVIDIA's libraries take handles and addresses")]

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_void};
use std::sync::{LazyLock, Mutex, PoisonError};

use cudarc::driver::{result, sys};
use cudarc::nvrtc;

use crate::backend::driver::told;

/// Returns whether NVRTC is there.
pub(crate) fn has_compiler() -> bool {
    static PRESENT: LazyLock<bool> = LazyLock::new(|| {
        // SAFETY: opens the library, if there is one, which does nothing until it is called.
        unsafe { nvrtc::sys::is_culib_present() }
    });
    *PRESENT
}

/// What is compiled: source text and the macros that specialize it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Program {
    /// CUDA C++ that needs no header.
    pub(crate) source: &'static str,
    /// Macros, as names and values, which are put before the source.
    pub(crate) defines: Vec<(&'static str, usize)>,
}

/// A kernel of a loaded program.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Function {
    raw: sys::CUfunction,
}

// SAFETY: a function is a handle into a module that is never unloaded.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

/// Kernels by GPU, program and name.
type Loaded = HashMap<(i32, Program, &'static str), Function>;

static LOADED: Mutex<Option<Loaded>> = Mutex::new(None);

/// How a kernel is launched.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Launch {
    pub(crate) grid: [u32; 3],
    pub(crate) threads: u32,
    /// Bytes of dynamic shared memory.
    pub(crate) shared: u32,
}

/// An argument of a kernel.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Argument {
    Address(u64),
    I32(i32),
    I64(i64),
    F32(f32),
}

impl Argument {
    fn pointer(&self) -> *mut c_void {
        let pointer: *const c_void = match self {
            Self::Address(value) => std::ptr::from_ref(value).cast(),
            Self::I32(value) => std::ptr::from_ref(value).cast(),
            Self::I64(value) => std::ptr::from_ref(value).cast(),
            Self::F32(value) => std::ptr::from_ref(value).cast(),
        };
        pointer.cast_mut()
    }
}

impl Program {
    /// Returns a kernel of the program for the current GPU, compiling the program if it is not loaded yet.
    ///
    /// # Errors
    ///
    /// What the compiler or the driver says.
    pub(crate) fn function(&self, name: &'static str) -> Result<Function, String> {
        let gpu = current_gpu()?;
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        let loaded = loaded.get_or_insert_with(HashMap::new);
        let key = (gpu, self.clone(), name);
        if let Some(function) = loaded.get(&key) {
            return Ok(*function);
        }
        let image = self.compile(gpu)?;
        let name = CString::new(name).map_err(|error| error.to_string())?;
        // SAFETY: the image is what NVRTC made, and the module stays loaded.
        let raw = unsafe {
            let module = result::module::load_data(image.as_ptr().cast()).map_err(told)?;
            result::module::get_function(module, name).map_err(told)?
        };
        let function = Function { raw };
        loaded.insert(key, function);
        Ok(function)
    }

    /// Compiles to PTX, which the driver turns into machine code.
    fn compile(&self, gpu: i32) -> Result<Vec<std::ffi::c_char>, String> {
        let (major, minor) = capability(gpu)?;
        let mut options = vec![format!("--gpu-architecture=compute_{major}{minor}")];
        options.push("--std=c++17".to_owned());
        let defines = self.defines.iter().map(|(name, value)| format!("#define {name} {value}\n"));
        let source = defines.chain([self.source.to_owned()]).collect::<String>();
        let source = CString::new(source).map_err(|error| error.to_string())?;
        let told = |error: nvrtc::result::NvrtcError| format!("NVRTC says {error:?}");
        let program = nvrtc::result::create_program(&source, None).map_err(told)?;
        // SAFETY: the program lives until it is destroyed at the end.
        unsafe {
            let compiled = nvrtc::result::compile_program(program, &options);
            let image = match compiled {
                Ok(()) => nvrtc::result::get_ptx(program).map_err(told),
                Err(error) => {
                    let log = nvrtc::result::get_program_log(program).unwrap_or_default();
                    let log: Vec<u8> = log.iter().map(|c| c.cast_unsigned()).collect();
                    let log = CStr::from_bytes_until_nul(&log).unwrap_or_default();
                    Err(format!("NVRTC says {error:?}: {}", log.to_string_lossy().trim_end()))
                }
            };
            let _ = nvrtc::result::destroy_program(program);
            image
        }
    }
}

impl Function {
    /// Queues the kernel on a stream.
    ///
    /// # Safety
    ///
    /// The arguments are those of the kernel, in its order; addresses lie on the current GPU and hold what the kernel
    /// reads and writes; the stream is live.
    pub(crate) unsafe fn launch(
        self,
        launch: Launch,
        arguments: &[Argument],
        stream: sys::CUstream,
    ) -> Result<(), String> {
        let Launch { grid: [x, y, z], threads, shared } = launch;
        if x == 0 || y == 0 || z == 0 {
            return Ok(());
        }
        let mut pointers: Vec<*mut c_void> = arguments.iter().map(Argument::pointer).collect();
        // SAFETY: the function is loaded; the rest is by the caller's word.
        unsafe {
            if shared > 48 * 1024 {
                let most =
                    sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
                let bytes = i32::try_from(shared).map_err(|error| error.to_string())?;
                result::function::set_function_attribute(self.raw, most, bytes).map_err(told)?;
            }
            result::launch_kernel(
                self.raw,
                (x, y, z),
                (threads, 1, 1),
                shared,
                stream,
                &mut pointers,
            )
            .map_err(told)
        }
    }
}

fn current_gpu() -> Result<i32, String> {
    let mut device = 0;
    // SAFETY: the place is written by the call.
    unsafe { sys::cuCtxGetDevice(&raw mut device) }.result().map_err(told)?;
    Ok(device)
}

/// Returns major and minor compute capability of the current GPU.
///
/// # Errors
///
/// What the driver says.
pub(crate) fn current_capability() -> Result<(i32, i32), String> {
    capability(current_gpu()?)
}

/// Returns major and minor compute capability of a GPU.
fn capability(gpu: i32) -> Result<(i32, i32), String> {
    use sys::CUdevice_attribute::{
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
    };
    // SAFETY: the device is the current context's.
    let read = |attribute| unsafe { result::device::get_attribute(gpu, attribute) }.map_err(told);
    Ok((read(MAJOR)?, read(MINOR)?))
}
