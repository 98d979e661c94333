//! Which element types a run uses, read from its tensors.

use std::collections::BTreeMap;
use std::fmt;

use burn::tensor::DType;
use serde::{Deserialize, Serialize};

use super::format;

/// Numbers of elements by the name of their type.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ElementCounts(BTreeMap<String, u64>);

impl ElementCounts {
    /// Counts the elements of a tensor.
    pub fn add(&mut self, dtype: DType, elements: usize) {
        *self.0.entry(format!("{dtype:?}").to_lowercase()).or_default() += elements as u64;
    }

    /// Adds other counts.
    pub fn merge(&mut self, other: Self) {
        for (name, elements) in other.0 {
            *self.0.entry(name).or_default() += elements;
        }
    }

    /// Returns the elements of a type, by its name.
    pub fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }
}

impl Extend<(DType, usize)> for ElementCounts {
    fn extend<T: IntoIterator<Item = (DType, usize)>>(&mut self, tensors: T) {
        for (dtype, elements) in tensors {
            self.add(dtype, elements);
        }
    }
}

/// `f32`, or with several types `bf16 5,939,200, f32 256`, most first.
impl fmt::Display for ElementCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut counts: Vec<_> = self.0.iter().collect();
        counts.sort_by_key(|(_, elements)| std::cmp::Reverse(**elements));
        match &counts[..] {
            [] => f.write_str("none"),
            [(name, _)] => f.write_str(name),
            several => {
                let shown = several
                    .iter()
                    .map(|(name, count)| format!("{name} {}", format::count(**count)));
                f.write_str(&shown.collect::<Vec<_>>().join(", "))
            }
        }
    }
}

/// The element types of a run, read from the tensors of one rank after the first update.
///
/// It tells what happened, not what was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrecisionReport {
    /// Step of the update.
    pub step: u64,
    /// Parameters at rest, which the optimizer updates: this rank's parts.
    pub parameters: ElementCounts,
    /// Parameters as forward and backward passes use them: whole units, and what is in none.
    pub computation: ElementCounts,
    /// Losses.
    pub loss: ElementCounts,
    /// Gradients as the optimizer gets them.
    pub gradients: ElementCounts,
    /// Gradients as they are summed over ranks; nothing where none travels.
    pub reduction: ElementCounts,
    /// State of the optimizers.
    pub optimizer_state: ElementCounts,
}

impl PrecisionReport {
    /// Returns each role with its element types.
    pub fn rows(&self) -> [(&'static str, &ElementCounts); 6] {
        [
            ("parameters", &self.parameters),
            ("computation", &self.computation),
            ("loss", &self.loss),
            ("gradients", &self.gradients),
            ("reduction", &self.reduction),
            ("optimizer state", &self.optimizer_state),
        ]
    }
}
