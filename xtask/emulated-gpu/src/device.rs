//! Devices and contexts.

use std::cell::Cell;
use std::ffi::{c_char, c_int, c_uint, c_void};

use crate::setting;

/// What a call of the driver returns.
pub(crate) type Code = c_int;

pub(crate) const SUCCESS: Code = 0;
pub(crate) const INVALID_VALUE: Code = 1;
pub(crate) const OUT_OF_MEMORY: Code = 2;
pub(crate) const INVALID_DEVICE: Code = 101;
pub(crate) const INVALID_IMAGE: Code = 200;
pub(crate) const INVALID_CONTEXT: Code = 201;
pub(crate) const NOT_FOUND: Code = 500;
pub(crate) const NOT_READY: Code = 600;

/// Memory of a GPU: what no test comes near.
const MEMORY: usize = 8 << 30;
/// An old GPU: no tensor cores, no asynchronous copies, nothing that kernels write in assembly.
const COMPUTE_CAPABILITY: c_int = 60;
const DRIVER_VERSION: c_int = 13_000;

thread_local! {
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

/// Returns the GPU that calls of this thread are about.
pub(crate) fn current() -> Option<usize> {
    CURRENT.with(|current| current.get().checked_sub(1))
}

/// Runs a call that needs a current context.
pub(crate) fn within(call: impl FnOnce() -> Code) -> Code {
    if current().is_some() { call() } else { INVALID_CONTEXT }
}

fn count() -> c_int {
    setting("EMULATED_GPUS", 1)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuInit(_flags: c_uint) -> Code {
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> Code {
    unsafe { *version = DRIVER_VERSION };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetCount(devices: *mut c_int) -> Code {
    unsafe { *devices = count() };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> Code {
    if !(0..count()).contains(&ordinal) {
        return INVALID_DEVICE;
    }
    unsafe { *device = ordinal };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, length: c_int, _: c_int) -> Code {
    unsafe { text(name, length, "Emulated GPU") };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetPCIBusId(
    id: *mut c_char,
    length: c_int,
    device: c_int,
) -> Code {
    unsafe { text(id, length, &format!("0000:{device:02x}:00.0")) };
    SUCCESS
}

unsafe fn text(to: *mut c_char, length: c_int, text: &str) {
    let bytes = text.bytes().chain(std::iter::once(0)).take(length as usize);
    for (place, byte) in bytes.enumerate() {
        unsafe { *to.add(place) = byte as c_char };
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, _device: c_int) -> Code {
    unsafe { *bytes = MEMORY };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> Code {
    within(|| {
        unsafe { (*free, *total) = (MEMORY, MEMORY) };
        SUCCESS
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetAttribute(value: *mut c_int, name: c_int, _: c_int) -> Code {
    let capability = setting("EMULATED_GPU_CAPABILITY", COMPUTE_CAPABILITY);
    let found = match name {
        1..=3 => 1024,   // threads per block, in x and y
        4 => 64,         // threads per block in z
        5 => c_int::MAX, // blocks in x
        6 | 7 => 65_535, // blocks in y and z
        8 => 48 << 10,   // shared memory of a block
        97 => 227 << 10, // the same, at most
        10 => 32,        // threads per warp
        16 => 4,         // multiprocessors
        75 => capability / 10,
        76 => capability % 10,
        _ => 0,
    };
    unsafe { *value = found };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRetain(
    context: *mut *mut c_void,
    device: c_int,
) -> Code {
    unsafe { *context = std::ptr::without_provenance_mut(device as usize + 1) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRelease_v2(_device: c_int) -> Code {
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetCurrent(context: *mut c_void) -> Code {
    CURRENT.with(|current| current.set(context.addr()));
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetCurrent(context: *mut *mut c_void) -> Code {
    let found = CURRENT.with(Cell::get);
    unsafe { *context = std::ptr::without_provenance_mut(found) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetStreamPriorityRange(least: *mut c_int, most: *mut c_int) -> Code {
    unsafe { (*least, *most) = (0, 0) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorName(_error: Code, name: *mut *const c_char) -> Code {
    unsafe { *name = c"an error of the emulated GPU".as_ptr() };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorString(error: Code, text: *mut *const c_char) -> Code {
    unsafe { cuGetErrorName(error, text) }
}
