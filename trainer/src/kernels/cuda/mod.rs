//! Operations of NVIDIA GPUs: kernels in CUDA C++ and products by cuBLASLt, on the stream of `CubeCL`.
//!
//! | file | holds |
//! | --- | --- |
//! | `module` | compiling and launching kernels |
//! | `blas` | the calls to cuBLASLt |
//! | `matrix` | products of tensors |
//! | `cudnn` | graphs of operations by cuDNN |
//!
//! Every operation here is queued behind what the calling thread has queued, and nothing waits for it. What is queued
//! in Burn's fusion queue for an input is run first, so each operation ends a group of fused ones: they are coarse.
#![expect(unsafe_code, reason = "calls to NVIDIA's libraries take handles and addresses")]

pub(crate) mod blas;
pub(crate) mod cudnn;
pub(crate) mod matrix;
pub(crate) mod module;

use burn_cubecl::tensor::CubeTensor;

use module::{Argument, Launch, Program};

use crate::backend::driver::{Runner, Span};

/// Queues a launch of a kernel that reads and writes tensors; addresses of the tensors are filled in, in their order,
/// where `arguments` asks for them.
///
/// # Panics
///
/// As [`fail`], for what went wrong before.
pub(crate) fn launch(
    program: Program,
    name: &'static str,
    shape: Launch,
    tensors: &[&CubeTensor],
    arguments: impl Fn(&[Span]) -> Vec<Argument> + Send + 'static,
) {
    let handles = tensors.iter().map(|tensor| tensor.handle.clone()).collect();
    let queued = Runner::of(tensors[0]).queue(handles, move |spans, stream| {
        let function = program.function(name)?;
        // SAFETY: callers pass what the kernel's signature says, and tensors of the sizes that it reads and writes;
        // what is queued on the stream later cannot use their memory before the kernel is done.
        unsafe { function.launch(shape, &arguments(spans), stream) }
            .map_err(|message| format!("{name}: {message}"))
    });
    if let Err(message) = queued {
        fail(&message);
    }
}

/// Ends the rank for what the GPU said about work that nobody waited for.
///
/// # Panics
///
/// Always, with the message: a launch that failed leaves wrong numbers behind.
pub(crate) fn fail(message: &str) -> ! {
    panic!("the GPU failed: {message}")
}
