//! Which element types units really gather and reduce.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use burn::tensor::DType;

/// Element type and number of elements by unit, as the tensors said the last time.
#[derive(Debug, Default)]
pub(crate) struct Observed(Mutex<BTreeMap<usize, (DType, usize)>>);

impl Observed {
    pub(crate) fn note(&self, unit: usize, dtype: DType, elements: usize) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(unit, (dtype, elements));
    }

    pub(crate) fn list(&self) -> Vec<(DType, usize)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().copied().collect()
    }
}
