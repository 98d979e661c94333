//! How many bytes of gathered parameters are alive.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use burn::tensor::Bytes;

use super::Erased;

/// Watches the buffers of gathered parameters until nobody holds them: the units, the tape, or the
/// code of the user.
///
/// Only host buffers can be watched; on other backends the count stays zero.
#[derive(Debug, Default)]
pub struct GatheredBytes {
    watched: Mutex<Watched>,
}

#[derive(Debug, Default)]
struct Watched {
    buffers: Vec<Weak<Bytes>>,
    peak: usize,
}

impl Watched {
    fn live(&mut self) -> usize {
        self.buffers.retain(|buffer| buffer.strong_count() > 0);
        self.buffers.iter().filter_map(Weak::upgrade).map(|buffer| buffer.len()).sum()
    }
}

impl GatheredBytes {
    pub(crate) fn watch(&self, tensors: &[Erased]) {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let buffers = tensors.iter().filter_map(Erased::host_buffer);
        watched.buffers.extend(buffers.map(|buffer| Arc::downgrade(&buffer)));
        let live = watched.live();
        watched.peak = watched.peak.max(live);
    }

    /// Returns the bytes that are alive now.
    pub fn live(&self) -> usize {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner).live()
    }

    /// Returns the most that was alive when a unit was gathered, and starts to count anew.
    pub fn take_peak(&self) -> usize {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut watched.peak)
    }
}
