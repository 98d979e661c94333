//! The instruction set that the vector loops of a thread use.

use std::cell::Cell;

use pulp::{Arch, Simd, WithSimd};

use super::dispatch::Implementation;

thread_local! {
    static FORCED: Cell<Option<Arch>> = const { Cell::new(None) };
}

/// Returns the calling thread's instruction set: the best of the machine unless another is forced.
pub(super) fn current() -> Arch {
    FORCED.get().unwrap_or_default()
}

/// Forces the calling thread to an instruction set for the rest of its life.
pub(super) fn force(arch: Arch) {
    FORCED.set(Some(arch));
}

/// Returns every instruction set that the machine has, the best first.
pub(super) fn available() -> Vec<Arch> {
    let mut all = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        all.extend(pulp::x86::V4::try_new().map(Arch::V4));
        all.extend(pulp::x86::V3::try_new().map(Arch::V3));
    }
    #[cfg(target_arch = "aarch64")]
    all.extend(pulp::aarch64::Neon::try_new().map(Arch::Neon));
    all.push(Arch::Scalar);
    all
}

/// Names the kernels of an instruction set.
pub(super) fn implementation(arch: Arch) -> Implementation {
    struct Width;
    impl WithSimd for Width {
        type Output = usize;

        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> usize {
            S::F32_LANES
        }
    }
    match arch.dispatch(Width) {
        16 => Implementation::FlexAvx512,
        8 => Implementation::FlexAvx2,
        4 => Implementation::FlexNeon,
        _ => Implementation::FlexScalar,
    }
}
