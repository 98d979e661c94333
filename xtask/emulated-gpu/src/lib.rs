//! An emulated GPU: one library that stands in for `libcuda`, `libnvrtc`, `libnccl` and `libcublasLt`.
//!
//! The CUDA build of dream-train opens those four when it runs. Where links with their names lead to
//! this library, the whole program runs as it does on a GPU, every call and every kernel, on a machine
//! that has none. It is for tests of what surrounds kernels: the order of streams and events, the
//! lifetime of memory, who calls NCCL when. It says nothing about speed, and its arithmetic is that of
//! the CPU.
//!
//! | file | stands in for |
//! | --- | --- |
//! | `device` | devices, contexts |
//! | `memory` | memory of the GPU, pinned memory, copies |
//! | `stream` | streams and events |
//! | `kernel` | modules and launches |
//! | `nvrtc` | the compiler: CUDA C++ goes through the system's C++ compiler |
//! | `blas` | the matrix products of cuBLASLt |
//! | `nccl`, `communicator`, `world`, `reduce` | the calls of NCCL, their members, the connections below, sums |
//! | `../include` | the headers that kernels are compiled with |
//!
//! # Stricter than a GPU
//!
//! - Each stream is a thread of its own, so work that does not wait for what it uses reads garbage:
//!   new and freed memory is filled with numbers near 3e38.
//! - Calls without a current context fail, but for waiting and asking, whose events know theirs.
//! - Copies from pinned memory read it when the stream comes to them.
//! - NCCL starts each operation from a thread behind, after a pause, as it may with non-blocking
//!   communicators; a call before the last is ready is an error. A member that is missing is waited for
//!   without end, and one that dies is not reported.
//!
//! # Settings
//!
//! | variable | means | default |
//! | --- | --- | --- |
//! | `EMULATED_GPUS` | number of GPUs | 1 |
//! | `EMULATED_GPU_CAPABILITY` | compute capability, ten times; kernels of newer GPUs do not run here | 60 |
//! | `EMULATED_GPU_CACHE` | folder of compiled kernels | one in the system's temporary folder |
//! | `EMULATED_NCCL_VERSION` | what `ncclGetVersion` says | 23004 |
#![cfg(unix)]
#![allow(unsafe_code, reason = "it is called by, and calls, C")]
#![allow(non_snake_case, reason = "the names are NVIDIA's")]
#![allow(unreachable_pub, reason = "what is exported is found by its name")]
#![allow(clippy::missing_safety_doc, reason = "the contracts are those of NVIDIA's documentation")]
#![allow(clippy::print_stderr, reason = "the process it is in belongs to someone else")]

mod blas;
mod communicator;
mod device;
mod kernel;
mod memory;
mod nccl;
mod nvrtc;
mod reduce;
mod stream;
mod world;

use std::sync::{Mutex, MutexGuard, PoisonError};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads a number from the environment.
fn setting(name: &str, default: i32) -> i32 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}
