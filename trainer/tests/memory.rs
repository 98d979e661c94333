//! How memory grows: attention keeps, and passes through, memory linear in the sequence.
#![expect(unsafe_code, reason = "an allocator that counts is an unsafe trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::tensor::{Device, Distribution, Tensor};
use dream_trainer::kernels::{AttentionOptions, attention};

/// The system's allocator, with a count of the bytes in use and of the most there were.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged; the counters touch no memory of the caller.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let in_use = IN_USE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(in_use, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `GlobalAlloc`, which is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above; the block came from `System.alloc`.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const HEADS: usize = 2;
const HEAD_DIM: usize = 16;

/// Returns the bytes that attention keeps for backward, inputs and output aside, and the most that forward and backward had in
/// use beyond the inputs.
fn bytes(sequence: usize) -> [usize; 2] {
    let device = Device::flex().autodiff();
    let leaf = || {
        let shape = [1, sequence, HEADS, HEAD_DIM];
        Tensor::<4>::random(shape, Distribution::Uniform(-1.0, 1.0), &device).require_grad()
    };
    let [q, k, v] = [(); 3].map(|()| leaf());
    let before = IN_USE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let output = attention(q, k, v, &AttentionOptions::causal());
    let kept = IN_USE.load(Ordering::Relaxed) - before - output.shape().num_elements() * 4;
    drop(output.sum().backward());
    [kept, PEAK.load(Ordering::Relaxed) - before]
}

#[test]
fn attention_memory_is_linear_in_the_sequence() {
    // On one thread, so that how many buffers threads hold at a time does not depend on chance.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread starts");
    // The first run makes tables.
    let _ = pool.install(|| bytes(64));
    let [short, long] = [512, 2048].map(|sequence| pool.install(|| bytes(sequence)));
    for (what, short, long) in [("kept", short[0], long[0]), ("peak", short[1], long[1])] {
        assert!(long < 5 * short, "{what}: {short} bytes at 512 tokens, {long} at 2048");
    }
    // A score for every pair would take more than this.
    assert!(long[1] < 4 * 2048 * 2048, "peak: {} bytes", long[1]);
}
