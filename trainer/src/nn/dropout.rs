//! Dropout whose masks do not depend on the mesh.

use burn::tensor::Tensor;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::Scope;
use super::style::{LayerKind, StyleSlot};
use crate::kernels::{self, DropoutPosition};

/// Which part of a run a forward pass sees. Random decisions are functions of it and of the
/// position of an element, so they repeat when activations are computed again, and agree on every
/// mesh and however a step is cut into microbatches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draw {
    /// Number of the optimizer step.
    pub step: u64,
    /// Number of the batch's first sequence among those of the step.
    pub first_sequence: u64,
}

/// Sets elements of hidden states to zero at random while training.
///
/// It is no part of the parameters; a module keeps one as a field with `#[module(skip)]`. Where a
/// plan splits the sequence it takes [`SequenceParallel`](crate::tensor_parallel::SequenceParallel),
/// by which it knows the tokens it sees. It is meant for hidden states that are whole along their
/// features, not for what lies between two split products.
#[derive(Debug, Clone)]
pub struct Dropout {
    probability: f64,
    key: u64,
    style: StyleSlot,
}

impl Dropout {
    /// Builds the layer under `scope`. Masks depend on its seed and path.
    ///
    /// # Panics
    ///
    /// If `probability` is not in `[0, 1)`.
    pub fn new(probability: f64, scope: &Scope) -> Self {
        assert!((0.0..1.0).contains(&probability), "a probability below 1, not {probability}");
        let key = xxh3_64_with_seed(scope.path().as_bytes(), scope.seed());
        Self { probability, key, style: scope.layer(LayerKind::Dropout) }
    }

    /// Drops elements by the mask of `draw`; without one, as in evaluation, it changes nothing.
    ///
    /// # Shapes
    ///
    /// `[b, s, h]` to the same; of a split sequence, this rank's tokens.
    pub fn forward(&self, x: Tensor<3>, draw: Option<Draw>) -> Tensor<3> {
        let Some(Draw { step, first_sequence }) = draw.filter(|_| self.probability > 0.0) else {
            return x;
        };
        let [_, tokens, _] = x.dims();
        let first_token = self.style.get().map_or(0, |style| style.first_token(tokens)) as u64;
        let position = DropoutPosition { key: self.key, step, first_sequence, first_token };
        kernels::dropout(x, self.probability, position)
    }
}
