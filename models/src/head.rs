//! The output projection, whether it has a weight of its own or shares the embedding's.

use burn::tensor::{Int, Tensor};
use dream_trainer::fsdp::Unit;
use dream_trainer::nn::{Embedding, Linear};

/// Holds the layer that turns hidden states into logits.
///
/// Legend: `b` batch, `s` sequence, `h` hidden, `v` vocabulary.
#[derive(Debug, Clone)]
pub enum HeadWeight {
    /// A projection of its own, `[h, v]`.
    Projection(Unit<Linear>),
    /// The token embedding, `[v, h]`; its gradient from here adds to that of the lookup.
    Embedding(Unit<Embedding>),
}

impl HeadWeight {
    /// Computes the logits.
    ///
    /// # Shapes
    ///
    /// `hidden` is `[b, s, h]`; the result is `[b, s, v]`.
    pub fn logits(self, hidden: Tensor<3>) -> Tensor<3> {
        match self {
            Self::Projection(unit) => unit.forward(hidden, Linear::logits),
            Self::Embedding(unit) => unit.forward(hidden, Embedding::logits),
        }
    }

    /// Sums the cross-entropy of all labels that are not
    /// [`IGNORE_INDEX`](dream_trainer::kernels::IGNORE_INDEX), without holding all logits.
    ///
    /// # Shapes
    ///
    /// `hidden` is `[b, s, h]`, `labels` is `[b, s]`; the result is `[1]`.
    pub fn cross_entropy(self, hidden: Tensor<3>, labels: Tensor<2, Int>) -> Tensor<1> {
        let [b, s] = labels.dims();
        let labels = labels.reshape([b * s]);
        match self {
            Self::Projection(unit) => unit
                .forward(hidden, move |projection, x| projection.cross_entropy(x, labels.clone())),
            Self::Embedding(unit) => {
                unit.forward(hidden, move |table, x| table.cross_entropy(x, labels.clone()))
            }
        }
    }
}
