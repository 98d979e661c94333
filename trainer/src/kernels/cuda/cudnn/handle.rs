//! The library's state on a GPU.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::{result, sys};

use super::library::{Library, Raw};
use crate::backend::driver::told;

/// The state, and the stream it was last given. It lives to the end of the process.
#[derive(Debug)]
struct Handle {
    raw: Raw,
    stream: Option<usize>,
}

// SAFETY: every thread may use a handle, one at a time, where its GPU is current.
unsafe impl Send for Handle {}

type Shared = Arc<Mutex<Handle>>;

/// By context of the GPU.
static HANDLES: Mutex<Option<HashMap<usize, Shared>>> = Mutex::new(None);

/// Returns the handle of the current GPU.
fn current(library: &Library) -> Result<Shared, String> {
    let context = result::ctx::get_current().map_err(told)?;
    let context = context.ok_or("no GPU is current")?.addr();
    let mut handles = HANDLES.lock().unwrap_or_else(PoisonError::into_inner);
    let handles = handles.get_or_insert_with(HashMap::new);
    if let Some(found) = handles.get(&context) {
        return Ok(Arc::clone(found));
    }
    let mut raw = std::ptr::null_mut();
    // SAFETY: a GPU is current, and the place is written by the call.
    let status = unsafe { (library.create)(&raw mut raw) };
    library.check(status, "cudnnCreate", "handle")?;
    let made = Arc::new(Mutex::new(Handle { raw, stream: None }));
    handles.insert(context, Arc::clone(&made));
    Ok(made)
}

/// Gives work the handle of the current GPU, which nobody else uses meanwhile.
///
/// # Errors
///
/// Those of the work, and what cuDNN or the driver says.
pub(super) fn with_handle<T>(
    library: &Library,
    work: impl FnOnce(Raw) -> Result<T, String>,
) -> Result<T, String> {
    let handle = current(library)?;
    let handle = handle.lock().unwrap_or_else(PoisonError::into_inner);
    work(handle.raw)
}

/// As [`with_handle`]; what the work queues goes to a stream.
///
/// # Safety
///
/// The stream is a live one of the current GPU.
pub(super) unsafe fn with_stream<T>(
    library: &Library,
    stream: sys::CUstream,
    work: impl FnOnce(Raw) -> Result<T, String>,
) -> Result<T, String> {
    let handle = current(library)?;
    let mut handle = handle.lock().unwrap_or_else(PoisonError::into_inner);
    if handle.stream != Some(stream.addr()) {
        // SAFETY: the handle is live; the stream is by the caller's word.
        let status = unsafe { (library.set_stream)(handle.raw, stream.cast()) };
        library.check(status, "cudnnSetStream", "handle")?;
        handle.stream = Some(stream.addr());
    }
    work(handle.raw)
}
