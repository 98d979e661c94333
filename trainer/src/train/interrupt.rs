//! Wishes to end and to save, shared by whoever may have them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Flags that end a run, or save a checkpoint, at the end of the current step. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Interrupt {
    end: Arc<AtomicBool>,
    save: Arc<AtomicBool>,
}

impl Interrupt {
    /// Asks the run to end.
    pub fn request(&self) {
        self.end.store(true, Ordering::Relaxed);
    }

    /// Tells whether the run was asked to end.
    pub fn is_requested(&self) -> bool {
        self.end.load(Ordering::Relaxed)
    }

    /// Tells whether an end was asked for since the last call, so that each wish can be passed on.
    pub(crate) fn take_end(&self) -> bool {
        self.end.swap(false, Ordering::Relaxed)
    }

    /// Asks the run to save a checkpoint and to go on.
    pub fn request_save(&self) {
        self.save.store(true, Ordering::Relaxed);
    }

    /// Tells whether a checkpoint was asked for since the last call. One caller of several learns of
    /// it.
    pub fn take_save(&self) -> bool {
        self.save.swap(false, Ordering::Relaxed)
    }

    /// Returns the flag of [`Self::request`], for a signal handler.
    pub(crate) fn end_flag(&self) -> &Arc<AtomicBool> {
        &self.end
    }

    /// Returns the flag of [`Self::request_save`], for a signal handler.
    pub(crate) fn save_flag(&self) -> &Arc<AtomicBool> {
        &self.save
    }
}
