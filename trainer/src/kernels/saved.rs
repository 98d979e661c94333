//! How many bytes the tape holds for the backward pass.
//!
//! Fused operations know what they keep: inputs that backward reads, and results of their own. While [`measure`] runs, each
//! tells it to a ledger of the calling thread, which follows the buffers until nobody holds them. A buffer that several
//! operations keep counts once, in full size; weights do not count. Operations of Burn that a model calls directly keep
//! their own state, which is not seen; those between the fused ones of a transformer (sums, changes of shape) keep none.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use burn::tensor::{Bytes, Tensor};
use burn_flex::FlexTensor;

use super::{dispatch, flex};

thread_local! {
    static LEDGER: RefCell<Option<Ledger>> = const { RefCell::new(None) };
}

/// Buffers that were kept, as long as somebody holds them.
#[derive(Default)]
struct Ledger {
    /// By address, so that a buffer is listed once.
    buffers: BTreeMap<usize, Weak<Bytes>>,
    /// Bytes of results that are no tensors.
    others: Vec<Weak<usize>>,
    peak: usize,
}

impl Ledger {
    fn add(&mut self, kept: &Kept) {
        for buffer in &kept.buffers {
            // A dead entry cannot share the address: its weak pointer keeps the place taken.
            self.buffers.insert(Arc::as_ptr(buffer).addr(), Arc::downgrade(buffer));
        }
        self.others.extend(kept.others.as_ref().map(Arc::downgrade));
        self.buffers.retain(|_, buffer| buffer.strong_count() > 0);
        self.others.retain(|bytes| bytes.strong_count() > 0);
        let buffers = self.buffers.values().filter_map(Weak::upgrade).map(|buffer| buffer.len());
        let others = self.others.iter().filter_map(Weak::upgrade).map(|bytes| *bytes);
        self.peak = self.peak.max(buffers.chain(others).sum());
    }
}

/// Runs `body` and returns, beside its result, the most bytes that operations recorded on this thread held for their
/// backward pass at any time.
pub fn measure<R>(body: impl FnOnce() -> R) -> (R, usize) {
    struct Restore(Option<Ledger>);
    impl Drop for Restore {
        fn drop(&mut self) {
            LEDGER.replace(self.0.take());
        }
    }
    let mut restore = Restore(LEDGER.replace(Some(Ledger::default())));
    let result = body();
    let ledger = LEDGER.replace(restore.0.take());
    std::mem::forget(restore);
    (result, ledger.map_or(0, |ledger| ledger.peak))
}

/// Tells the ledger that an operation elsewhere keeps buffers, where something measures.
pub(crate) fn keep(buffers: impl Iterator<Item = Arc<Bytes>>) {
    if is_measured() {
        record(Kept { buffers: buffers.collect(), others: None }, &());
    }
}

/// Tells the ledger that an operation elsewhere keeps tensors, where something measures.
pub(crate) fn keep_tensors<const D: usize, const N: usize>(tensors: [&Tensor<D>; N]) {
    let on_flex = |tensor: &&Tensor<D>| dispatch::has_kernel(&tensor.device(), &[tensor.dtype()]);
    let buffer = |tensor: &Tensor<D>| flex::from_tensor(tensor.clone()).data_arc();
    keep(tensors.into_iter().filter(on_flex).map(buffer));
}

/// Tells whether something measures on this thread.
pub(super) fn is_measured() -> bool {
    LEDGER.with_borrow(Option::is_some)
}

/// Adds the inputs that an operation keeps and its own results; what is returned has to live as long as those.
pub(super) fn record(inputs: Kept, results: &impl Keep) -> Option<Arc<usize>> {
    let mut kept = inputs;
    results.list(&mut kept);
    LEDGER.with_borrow_mut(|ledger| {
        if let Some(ledger) = ledger {
            ledger.add(&kept);
        }
    });
    kept.others
}

/// What an operation keeps.
#[derive(Debug, Clone, Default)]
pub(crate) struct Kept {
    buffers: Vec<Arc<Bytes>>,
    others: Option<Arc<usize>>,
}

impl Kept {
    /// Adds a buffer, if there is one on the host.
    pub(super) fn add_buffer(&mut self, buffer: Option<Arc<Bytes>>) {
        self.buffers.extend(buffer);
    }

    fn add_bytes(&mut self, bytes: usize) {
        let sum = self.others.as_deref().copied().unwrap_or(0) + bytes;
        self.others = Some(Arc::new(sum));
    }
}

/// A value that an operation keeps for its backward pass.
pub(crate) trait Keep {
    /// Lists its buffers.
    fn list(&self, kept: &mut Kept);
}

impl Keep for () {
    fn list(&self, _: &mut Kept) {}
}

impl Keep for FlexTensor {
    fn list(&self, kept: &mut Kept) {
        kept.buffers.push(self.data_arc());
    }
}

impl<T> Keep for Vec<T> {
    fn list(&self, kept: &mut Kept) {
        kept.add_bytes(size_of_val(self.as_slice()));
    }
}

impl<T> Keep for Arc<[T]> {
    fn list(&self, kept: &mut Kept) {
        kept.add_bytes(size_of_val(&**self));
    }
}

impl<T: Keep> Keep for Option<T> {
    fn list(&self, kept: &mut Kept) {
        if let Some(value) = self {
            value.list(kept);
        }
    }
}

impl<T: Keep, const N: usize> Keep for [T; N] {
    fn list(&self, kept: &mut Kept) {
        for value in self {
            value.list(kept);
        }
    }
}

impl<A: Keep, B: Keep, C: Keep> Keep for (A, B, C) {
    fn list(&self, kept: &mut Kept) {
        self.0.list(kept);
        self.1.list(kept);
        self.2.list(kept);
    }
}

impl<A: Keep, B: Keep> Keep for (A, B) {
    fn list(&self, kept: &mut Kept) {
        self.0.list(kept);
        self.1.list(kept);
    }
}
