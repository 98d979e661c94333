//! Modules and launches. A module is a library that our `nvrtc` had compiled; its name is the "PTX".
//! Real PTX, of NVIDIA's own compiler, is taken too, and its kernels do nothing.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::Arc;

use crate::device::{Code, INVALID_IMAGE, INVALID_VALUE, NOT_FOUND, SUCCESS, within};
use crate::stream::Stream;

unsafe extern "C" {
    fn dlopen(name: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
}

const RTLD_NOW: c_int = 2;

/// How many blocks and threads run a kernel, and their shared memory; `include/device.h` has its twin.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Extent {
    blocks: [c_uint; 3],
    threads: [c_uint; 3],
    shared_bytes: c_uint,
}

type Launch = unsafe extern "C" fn(arguments: *const *mut c_void, extent: *const Extent);
type Sizes = unsafe extern "C" fn(count: *mut usize) -> *const usize;

/// A kernel.
enum Function {
    Compiled {
        launch: Launch,
        /// Bytes of each argument.
        sizes: Vec<usize>,
    },
    /// In a language that nothing here runs.
    Foreign,
}

/// A loaded module.
enum Module {
    /// What `dlopen` returned.
    Library(*mut c_void),
    Ptx(String),
}

impl Module {
    fn function(&self, name: &CStr) -> Option<Function> {
        match self {
            Self::Library(library) => {
                let symbol = |name: &CStr| {
                    let found = unsafe { dlsym(*library, name.as_ptr()) };
                    (!found.is_null()).then_some(found)
                };
                symbol(name)?;
                let (launch, sizes) = (symbol(c"emulated_launch")?, symbol(c"emulated_sizes")?);
                // SAFETY: `include/device.h` defines both with these types.
                let (launch, sizes) = unsafe {
                    (
                        std::mem::transmute::<*mut c_void, Launch>(launch),
                        std::mem::transmute::<*mut c_void, Sizes>(sizes),
                    )
                };
                let mut count = 0;
                let first = unsafe { sizes(&raw mut count) };
                let sizes = (0..count).map(|place| unsafe { *first.add(place) }).collect();
                Some(Function::Compiled { launch, sizes })
            }
            Self::Ptx(text) => {
                let entry = format!(".entry {}(", name.to_string_lossy());
                text.contains(&entry).then_some(Function::Foreign)
            }
        }
    }
}

/// Opens what `nvrtc` compiled, and never closes it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadData(module: *mut *mut c_void, image: *const c_void) -> Code {
    within(|| {
        let text = unsafe { CStr::from_ptr(image.cast()) };
        let is_name = !text.to_bytes().contains(&b'\n');
        let made = if is_name {
            let library = unsafe { dlopen(text.as_ptr(), RTLD_NOW) };
            if library.is_null() {
                return INVALID_IMAGE;
            }
            Module::Library(library)
        } else {
            Module::Ptx(text.to_string_lossy().into_owned())
        };
        unsafe { *module = Box::into_raw(Box::new(made)).cast() };
        SUCCESS
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetFunction(
    function: *mut *mut c_void,
    module: *mut c_void,
    name: *const c_char,
) -> Code {
    within(|| {
        let module = unsafe { &*module.cast::<Module>() };
        let Some(found) = module.function(unsafe { CStr::from_ptr(name) }) else {
            return NOT_FOUND;
        };
        unsafe { *function = Box::into_raw(Box::new(Arc::new(found))).cast() };
        SUCCESS
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncSetAttribute(_function: *mut c_void, _name: c_int, _value: c_int) -> Code {
    SUCCESS
}

/// Queues a kernel; its arguments are copied before this returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchKernel(
    function: *mut c_void,
    blocks_x: c_uint,
    blocks_y: c_uint,
    blocks_z: c_uint,
    threads_x: c_uint,
    threads_y: c_uint,
    threads_z: c_uint,
    shared_bytes: c_uint,
    stream: *mut c_void,
    arguments: *mut *mut c_void,
    _extra: *mut *mut c_void,
) -> Code {
    within(|| {
        let function = Arc::clone(unsafe { &*function.cast::<Arc<Function>>() });
        let (blocks, threads) = ([blocks_x, blocks_y, blocks_z], [threads_x, threads_y, threads_z]);
        if blocks.contains(&0) || threads.contains(&0) || threads.iter().product::<u32>() > 1024 {
            return INVALID_VALUE;
        }
        let Function::Compiled { launch, sizes } = &*function else { return SUCCESS };
        let (extent, launch) = (Extent { blocks, threads, shared_bytes }, *launch);
        let copy = |(place, bytes): (usize, &usize)| {
            let mut words = vec![0_u128; bytes.div_ceil(16)];
            // SAFETY: the caller gives as many arguments as the kernel has, of its sizes.
            unsafe {
                let argument = (*arguments.add(place)).cast::<u8>();
                argument.copy_to_nonoverlapping(words.as_mut_ptr().cast(), *bytes);
            }
            words
        };
        let mut values: Vec<Vec<u128>> = sizes.iter().enumerate().map(copy).collect();
        unsafe { Stream::of(stream) }.queue(move || {
            let values: Vec<*mut c_void> =
                values.iter_mut().map(|value| value.as_mut_ptr().cast()).collect();
            // SAFETY: the arguments fit the kernel.
            unsafe { launch(values.as_ptr(), &raw const extent) };
        });
        SUCCESS
    })
}

/// Describes a tensor to kernels of GPUs that nothing here runs.
#[unsafe(no_mangle)]
pub extern "C" fn cuTensorMapEncodeTiled() -> Code {
    SUCCESS
}
