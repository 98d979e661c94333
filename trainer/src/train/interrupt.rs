//! A wish to end, shared by whoever may have it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Flag that ends a run at the end of the current step. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Asks the run to end.
    pub fn request(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Tells whether the run was asked to end.
    pub fn is_requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
