//! The output projection, whether it has a weight of its own or shares the embedding's.

use burn::tensor::{Int, Tensor};
use dream_trainer::nn::{Embedding, Linear};

/// Holds the layer that turns hidden states into logits.
///
/// Legend: `b` batch, `s` sequence, `h` hidden, `v` vocabulary.
#[derive(Debug, Clone)]
pub enum HeadWeight {
    /// A projection of its own, `[h, v]`.
    Projection(Linear),
    /// The token embedding, `[v, h]`; its gradient from here adds to that of the lookup.
    Embedding(Embedding),
}

impl HeadWeight {
    /// Computes the logits.
    ///
    /// # Shapes
    ///
    /// `hidden` is `[b, s, h]`; the result is `[b, s, v]`.
    pub fn logits(self, hidden: Tensor<3>) -> Tensor<3> {
        match self {
            Self::Projection(projection) => projection.logits(hidden),
            Self::Embedding(table) => table.logits(hidden),
        }
    }

    /// Sums the cross-entropy of all labels that are not [`IGNORE_INDEX`](dream_trainer::kernels::IGNORE_INDEX), without holding all logits.
    ///
    /// # Shapes
    ///
    /// `hidden` is `[b, s, h]`, `labels` is `[b, s]`; the result is `[1]`.
    pub fn cross_entropy(self, hidden: Tensor<3>, labels: Tensor<2, Int>) -> Tensor<1> {
        let [b, s] = labels.dims();
        let labels = labels.reshape([b * s]);
        match self {
            Self::Projection(projection) => projection.cross_entropy(hidden, labels),
            Self::Embedding(table) => table.cross_entropy(hidden, labels),
        }
    }
}
