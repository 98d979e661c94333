//! Lookup table of token vectors.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};

use super::style::{HeadTable, LayerKind, StyleSlot};
use super::{Initializer, Scope};
use crate::kernels;

/// Configures an [`Embedding`].
#[derive(Debug, Clone)]
pub struct EmbeddingConfig {
    num_embeddings: usize,
    d_model: usize,
    initializer: Initializer,
}

impl EmbeddingConfig {
    /// Creates a configuration with standard normal vectors.
    pub fn new(num_embeddings: usize, d_model: usize) -> Self {
        Self { num_embeddings, d_model, initializer: Initializer::Normal { std: 1.0 } }
    }

    /// Chooses the distribution of the table.
    #[must_use]
    pub fn with_initializer(mut self, initializer: Initializer) -> Self {
        self.initializer = initializer;
        self
    }

    /// Builds the layer under `scope`.
    pub fn init(&self, scope: &Scope) -> Embedding {
        Embedding {
            weight: scope.param("weight", [self.num_embeddings, self.d_model], self.initializer),
            style: scope.layer(LayerKind::Embedding),
        }
    }
}

/// Maps token ids to vectors.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[num_embeddings, d_model]`.
    pub weight: Param<Tensor<2>>,
    #[module(skip)]
    style: StyleSlot,
}

impl Embedding {
    /// Looks up each id.
    ///
    /// # Shapes
    ///
    /// `[batch, sequence]` ids below `num_embeddings` to `[batch, sequence, d_model]`.
    pub fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        match self.style.get() {
            Some(style) => style.embedding(ids, self.weight.val()),
            None => kernels::embedding(self.weight.val(), ids),
        }
    }

    /// Computes all logits with the table as tied output projection.
    ///
    /// # Shapes
    ///
    /// `[b, s, d_model]` to `[b, s, num_embeddings]`.
    pub fn logits(&self, hidden: Tensor<3>) -> Tensor<3> {
        match self.style.get() {
            Some(style) => style.logits(hidden, HeadTable::Embedding(self.weight.val())),
            None => kernels::linear(hidden, self.weight.val().transpose(), None),
        }
    }

    /// Sums the cross-entropy of all labels that are not [`kernels::IGNORE_INDEX`] with the table
    /// as tied output projection.
    ///
    /// # Shapes
    ///
    /// `hidden` is `[b, s, d_model]`, `labels` is `[b s]`; the result is `[1]`.
    pub fn cross_entropy(&self, hidden: Tensor<3>, labels: Tensor<1, Int>) -> Tensor<1> {
        let weight = self.weight.val();
        if let Some(style) = self.style.get() {
            return style.cross_entropy(hidden, HeadTable::Embedding(weight), labels);
        }
        let [b, s, h] = hidden.dims();
        kernels::tied_linear_cross_entropy(hidden.reshape([b * s, h]), weight, labels)
    }
}
