//! Finding cuDNN, the functions that are called, and what it says when it refuses.

use std::error::Error;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::LazyLock;

use libloading::Library as Opened;

/// The first version whose results were compared with ours, as cuDNN writes it: 9.19.0.
const OLDEST: usize = 91_900;

/// Names under which the library lies.
const NAMES: [&str; 2] = ["libcudnn.so.9", "libcudnn.so"];

/// Parts that cuDNN opens when it needs them, and ends the process if it cannot.
const PARTS: [&str; 5] = [
    "libcudnn_ops.so.9",
    "libcudnn_graph.so.9",
    "libcudnn_heuristic.so.9",
    "libcudnn_engines_precompiled.so.9",
    "libcudnn_engines_runtime_compiled.so.9",
];

/// What the library's functions take and give in place of its own pointers.
pub(super) type Raw = *mut c_void;
type Status = c_int;

type GetSize = unsafe extern "C" fn() -> usize;
type StatusText = unsafe extern "C" fn(Status) -> *const c_char;
type LastText = unsafe extern "C" fn(*mut c_char, usize);
type Create = unsafe extern "C" fn(*mut Raw) -> Status;
type SetStream = unsafe extern "C" fn(Raw, Raw) -> Status;
type Describe = unsafe extern "C" fn(c_int, *mut Raw) -> Status;
type OnDescriptor = unsafe extern "C" fn(Raw) -> Status;
type SetAttribute = unsafe extern "C" fn(Raw, c_int, c_int, i64, *const c_void) -> Status;
type GetAttribute = unsafe extern "C" fn(Raw, c_int, c_int, i64, *mut i64, *mut c_void) -> Status;
type Execute = unsafe extern "C" fn(Raw, Raw, Raw) -> Status;

/// The functions that are called.
#[derive(Debug)]
pub(crate) struct Library {
    version: usize,
    status_text: StatusText,
    last_text: LastText,
    pub(super) create: Create,
    pub(super) set_stream: SetStream,
    pub(super) create_descriptor: Describe,
    pub(super) destroy_descriptor: OnDescriptor,
    pub(super) finalize: OnDescriptor,
    pub(super) set_attribute: SetAttribute,
    pub(super) get_attribute: GetAttribute,
    pub(super) execute: Execute,
}

/// Returns the library, which is looked for once.
///
/// # Errors
///
/// Why it cannot be used.
pub(crate) fn library() -> Result<&'static Library, &'static str> {
    static LIBRARY: LazyLock<Result<Library, String>> = LazyLock::new(Library::open);
    LIBRARY.as_ref().map_err(String::as_str)
}

/// Writes a version as cuDNN's documentation does, such as 9.19.0 for 91900.
pub(crate) fn dotted(version: usize) -> String {
    format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100)
}

/// Opens the first library of these names, for the life of the process.
fn open(names: &[&str]) -> Result<&'static Opened, String> {
    let mut said = None;
    for name in names {
        // SAFETY: NVIDIA's libraries are made to be opened like this; their start-up code makes tables.
        let error = match unsafe { Opened::new(*name) } {
            Ok(library) => return Ok(Box::leak(Box::new(library))),
            Err(error) => error,
        };
        let reason = error.source().map_or_else(|| error.to_string(), ToString::to_string);
        said.get_or_insert(reason);
    }
    Err(said.unwrap_or_default())
}

/// Returns a function of a library.
///
/// # Safety
///
/// `F` is the function's type.
unsafe fn function<F: Copy>(library: &Opened, name: &str) -> Result<F, String> {
    // SAFETY: by the caller's word.
    let found = unsafe { library.get::<F>(name) };
    found.map(|function| *function).map_err(|_| format!("libcudnn has no {name}"))
}

impl Library {
    /// Opens cuDNN and, before it is called, everything without which it would end the process.
    fn open() -> Result<Self, String> {
        let opened = open(&NAMES)?;
        // SAFETY: the types are those of the library's headers; neither function needs a GPU.
        let (version, runtime) = unsafe {
            let version: GetSize = function(opened, "cudnnGetVersion")?;
            let runtime: GetSize = function(opened, "cudnnGetCudartVersion")?;
            (version(), runtime())
        };
        if version < OLDEST {
            let (found, oldest) = (dotted(version), dotted(OLDEST));
            return Err(format!("libcudnn {found} is older than {oldest}"));
        }
        // The other libraries are those of the toolkit that this cuDNN was built with.
        let toolkit = runtime / 1000;
        for library in ["libcublasLt.so", "libnvrtc.so"] {
            open(&[format!("{library}.{toolkit}").as_str()])?;
        }
        for part in PARTS {
            open(&[part])?;
        }
        Self::functions(opened, version)
    }

    fn functions(opened: &Opened, version: usize) -> Result<Self, String> {
        // SAFETY: the types are those of the library's headers.
        unsafe {
            Ok(Self {
                version,
                status_text: function(opened, "cudnnGetErrorString")?,
                last_text: function(opened, "cudnnGetLastErrorString")?,
                create: function(opened, "cudnnCreate")?,
                set_stream: function(opened, "cudnnSetStream")?,
                create_descriptor: function(opened, "cudnnBackendCreateDescriptor")?,
                destroy_descriptor: function(opened, "cudnnBackendDestroyDescriptor")?,
                finalize: function(opened, "cudnnBackendFinalize")?,
                set_attribute: function(opened, "cudnnBackendSetAttribute")?,
                get_attribute: function(opened, "cudnnBackendGetAttribute")?,
                execute: function(opened, "cudnnBackendExecute")?,
            })
        }
    }

    /// Returns the version as one number, such as 91900 for 9.19.0.
    pub(crate) fn version(&self) -> usize {
        self.version
    }

    /// Turns a status into an error that says which call of what failed and why.
    pub(super) fn check(&self, status: Status, call: &str, of: &str) -> Result<(), String> {
        if status == 0 {
            return Ok(());
        }
        let mut text = [0_u8; 4096];
        // SAFETY: the status text is a constant; the other is written within its room and ended by a zero.
        let name = unsafe {
            (self.last_text)(text.as_mut_ptr().cast(), text.len());
            CStr::from_ptr((self.status_text)(status))
        };
        let text = CStr::from_bytes_until_nul(&text).unwrap_or_default();
        let (name, text) = (name.to_string_lossy(), text.to_string_lossy());
        Err(format!("{call} ({of}): {name} ({status}): {}", text.trim()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_written_with_dots() {
        assert_eq!([91_900, 92_101].map(dotted), ["9.19.0", "9.21.1"]);
    }
}
