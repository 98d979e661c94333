//! The memory allocator of programs that train on the CPU.
//!
//! A step allocates the same large tensors again and again. An allocator that gives freed pages back
//! to the system pays for each of them with a page fault and a cleared page in the next step; this
//! one keeps them. A program chooses it with
//!
//! ```
//! #[global_allocator]
//! static ALLOCATOR: dream_trainer::Allocator = dream_trainer::Allocator;
//! ```
#![expect(unsafe_code, reason = "setting an option of the allocator is a foreign call")]

pub use mimalloc::MiMalloc as Allocator;

/// `mi_option_purge_delay` of mimalloc 2 and 3, which the bindings do not name.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// Lets the allocator keep freed memory for the life of the process: peak memory stays what it is,
/// and a step faults no page in twice. Without effect where [`Allocator`] is not the allocator.
pub fn keep_freed_memory() {
    // SAFETY: the call stores an integer under an index that exists in every version of mimalloc
    // these bindings build, and may be made at any time.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, -1) };
}
