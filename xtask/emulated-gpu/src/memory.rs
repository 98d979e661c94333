//! Memory of the GPU, which is the host's here, pinned memory, and copies.

use std::alloc::{Layout, alloc, dealloc};
use std::collections::BTreeMap;
use std::ffi::{c_uint, c_void};
use std::sync::Mutex;

use crate::device::{Code, INVALID_VALUE, OUT_OF_MEMORY, SUCCESS, within};
use crate::lock;
use crate::stream::Stream;

/// What new and freed memory holds: 3.4e38 as `f32`, so that whoever reads it is noticed.
const POISON: u8 = 0x7f;
const ALIGNMENT: usize = 512;

/// Sizes of what is allocated, by address.
#[derive(Default)]
struct Blocks(Mutex<BTreeMap<usize, usize>>);

static DEVICE: Blocks = Blocks(Mutex::new(BTreeMap::new()));
static PINNED: Blocks = Blocks(Mutex::new(BTreeMap::new()));

fn layout(bytes: usize) -> Option<Layout> {
    Layout::from_size_align(bytes, ALIGNMENT).ok().filter(|layout| layout.size() > 0)
}

impl Blocks {
    fn allocate(&self, bytes: usize) -> Result<usize, Code> {
        let layout = layout(bytes).ok_or(INVALID_VALUE)?;
        // SAFETY: the layout has bytes.
        let memory = unsafe { alloc(layout) };
        if memory.is_null() {
            return Err(OUT_OF_MEMORY);
        }
        // SAFETY: just allocated.
        unsafe { memory.write_bytes(POISON, bytes) };
        let address = memory.expose_provenance();
        lock(&self.0).insert(address, bytes);
        Ok(address)
    }

    fn free(&self, address: usize) -> Code {
        let Some(bytes) = lock(&self.0).remove(&address) else { return INVALID_VALUE };
        let Some(layout) = layout(bytes) else { return INVALID_VALUE };
        let memory = std::ptr::with_exposed_provenance_mut::<u8>(address);
        // SAFETY: allocated above with this layout, and not freed before: it was in the table.
        unsafe {
            memory.write_bytes(POISON, bytes);
            dealloc(memory, layout);
        }
        SUCCESS
    }

    fn holds(&self, address: usize, bytes: usize) -> bool {
        let blocks = lock(&self.0);
        let block = blocks.range(..=address).next_back();
        block.is_some_and(|(start, length)| address + bytes <= start + length)
    }
}

/// Stops the program where memory of the GPU is used that is not allocated.
pub(crate) fn check(address: u64, bytes: usize, what: &str) {
    if bytes > 0 && !DEVICE.holds(address as usize, bytes) {
        eprintln!("emulated GPU: {what} of {bytes} bytes at {address:#x} is outside of its memory");
        std::process::abort();
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc_v2(address: *mut u64, bytes: usize) -> Code {
    within(|| match DEVICE.allocate(bytes) {
        Ok(found) => {
            unsafe { *address = found as u64 };
            SUCCESS
        }
        Err(code) => code,
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocAsync(address: *mut u64, bytes: usize, _: *mut c_void) -> Code {
    unsafe { cuMemAlloc_v2(address, bytes) }
}

/// Waits for nothing, unlike the driver: who frees what is in use finds out.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemFree_v2(address: u64) -> Code {
    within(|| DEVICE.free(address as usize))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFreeAsync(address: u64, stream: *mut c_void) -> Code {
    within(|| {
        unsafe { Stream::of(stream) }.queue(move || {
            DEVICE.free(address as usize);
        });
        SUCCESS
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocHost_v2(memory: *mut *mut c_void, bytes: usize) -> Code {
    within(|| match PINNED.allocate(bytes) {
        Ok(found) => {
            unsafe { *memory = std::ptr::with_exposed_provenance_mut(found) };
            SUCCESS
        }
        Err(code) => code,
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostAlloc(memory: *mut *mut c_void, bytes: usize, _: c_uint) -> Code {
    unsafe { cuMemAllocHost_v2(memory, bytes) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFreeHost(memory: *mut c_void) -> Code {
    PINNED.free(memory.addr())
}

/// Copies rows; addresses may be those of the host too.
fn copy(to: (usize, usize), from: (usize, usize), width: usize, rows: usize) {
    for row in 0..rows {
        let source = std::ptr::with_exposed_provenance::<u8>(from.0 + row * from.1);
        let target = std::ptr::with_exposed_provenance_mut::<u8>(to.0 + row * to.1);
        // SAFETY: whoever queued the copy has given both; memory of the GPU was checked.
        unsafe { source.copy_to(target, width) };
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoDAsync_v2(
    to: u64,
    from: *const c_void,
    bytes: usize,
    stream: *mut c_void,
) -> Code {
    within(|| {
        check(to, bytes, "a copy");
        let (source, stream) = (from.expose_provenance(), unsafe { Stream::of(stream) });
        if PINNED.holds(source, bytes) {
            stream.queue(move || copy((to as usize, 0), (source, 0), bytes, 1));
        } else {
            // Other memory of the host is read before the call returns.
            let staged = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), bytes) }.to_vec();
            stream.queue(move || {
                copy((to as usize, 0), (staged.as_ptr().expose_provenance(), 0), bytes, 1);
            });
        }
        SUCCESS
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoHAsync_v2(
    to: *mut c_void,
    from: u64,
    bytes: usize,
    stream: *mut c_void,
) -> Code {
    within(|| {
        check(from, bytes, "a copy");
        let (target, stream) = (to.expose_provenance(), unsafe { Stream::of(stream) });
        stream.queue(move || copy((target, 0), (from as usize, 0), bytes, 1));
        if !PINNED.holds(target, bytes) {
            stream.synchronize();
        }
        SUCCESS
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoDAsync_v2(
    to: u64,
    from: u64,
    bytes: usize,
    stream: *mut c_void,
) -> Code {
    within(|| {
        check(to, bytes, "a copy");
        check(from, bytes, "a copy");
        let task = move || copy((to as usize, 0), (from as usize, 0), bytes, 1);
        unsafe { Stream::of(stream) }.queue(task);
        SUCCESS
    })
}

/// `CUDA_MEMCPY2D`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Copy2D {
    from_x: usize,
    from_y: usize,
    from_kind: c_uint,
    from_host: *const c_void,
    from_device: u64,
    from_array: *mut c_void,
    from_pitch: usize,
    to_x: usize,
    to_y: usize,
    to_kind: c_uint,
    to_host: *mut c_void,
    to_device: u64,
    to_array: *mut c_void,
    to_pitch: usize,
    width: usize,
    height: usize,
}

const HOST: c_uint = 1;

/// Copies rows, and waits for them: the host's side may be any memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpy2DAsync_v2(plan: *const Copy2D, stream: *mut c_void) -> Code {
    within(|| {
        let plan = unsafe { *plan };
        let from = match plan.from_kind {
            HOST => plan.from_host.expose_provenance(),
            _ => plan.from_device as usize,
        };
        let to = match plan.to_kind {
            HOST => plan.to_host.expose_provenance(),
            _ => plan.to_device as usize,
        };
        let from = (from + plan.from_y * plan.from_pitch + plan.from_x, plan.from_pitch);
        let to = (to + plan.to_y * plan.to_pitch + plan.to_x, plan.to_pitch);
        let stream = unsafe { Stream::of(stream) };
        stream.queue(move || copy(to, from, plan.width, plan.height));
        stream.synchronize();
        SUCCESS
    })
}
