//! The seam at which a parallelism changes what a layer does.
//!
//! Burn has no hooks on modules. Instead every layer registers a [`StyleSlot`] with its
//! [`Scope`](super::Scope) when it is built. The slot is empty, and the layer a plain one, until a
//! parallelism puts a [`LayerStyle`] into it by the layer's path. A user's model needs no code for
//! it.

use std::fmt;
use std::sync::{Arc, OnceLock};

use burn::tensor::{Int, Tensor};

use super::Linear;

/// Computes a layer's share where its weights or its activations lie on several ranks.
///
/// Legend: `b` batch, `s` sequence, `h` hidden, `v` vocabulary. Which part of a dimension this rank
/// holds is the style's to know.
pub trait LayerStyle: fmt::Debug + Send + Sync {
    /// Computes what [`Linear::forward`] does, `[b, s, d_input]` to `[b, s, d_output]`.
    fn linear(&self, x: Tensor<3>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<3>;

    /// Computes what [`Embedding::forward`](super::Embedding::forward) does, `[b, s]` to `[b, s,
    /// h]`.
    fn embedding(&self, ids: Tensor<2, Int>, weight: Tensor<2>) -> Tensor<3>;

    /// Changes the layout of what enters a norm or a [`Boundary`](super::Boundary).
    fn input(&self, x: Tensor<3>) -> Tensor<3>;

    /// Changes the layout of what leaves a norm or a [`Boundary`](super::Boundary).
    fn output(&self, y: Tensor<3>) -> Tensor<3>;

    /// Applies several linear layers to what enters a [`Boundary`](super::Boundary).
    fn project(&self, x: Tensor<3>, layers: &[&Linear]) -> Vec<Tensor<3>> {
        let x = self.input(x);
        layers.iter().map(|layer| layer.forward(x.clone())).collect()
    }

    /// Returns the position in the sequence of the first of `num_tokens` tokens that a layer sees.
    fn first_token(&self, num_tokens: usize) -> usize;

    /// Computes all logits, `[b, s, h]` to `[b, s, v]`.
    fn logits(&self, hidden: Tensor<3>, weight: HeadTable) -> Tensor<3>;

    /// Sums the cross-entropy of the labels that count, `[b, s, h]` and `[b s]` to `[1]`.
    fn cross_entropy(
        &self,
        hidden: Tensor<3>,
        weight: HeadTable,
        labels: Tensor<1, Int>,
    ) -> Tensor<1>;
}

/// The weight of an output projection in the order in which it is stored.
#[derive(Debug, Clone)]
pub enum HeadTable {
    /// A projection of its own, `[h, v]`.
    Projection(Tensor<2>),
    /// The token embedding, `[v, h]`.
    Embedding(Tensor<2>),
}

impl HeadTable {
    /// Returns the weight as `[h, v]`.
    pub fn projection(self) -> Tensor<2> {
        match self {
            Self::Projection(weight) => weight,
            Self::Embedding(table) => table.transpose(),
        }
    }
}

/// Holds the style of one layer; clones of the layer share it.
#[derive(Debug, Clone, Default)]
pub struct StyleSlot(Arc<OnceLock<Arc<dyn LayerStyle>>>);

impl StyleSlot {
    /// Returns the style, if the layer has one.
    pub fn get(&self) -> Option<&dyn LayerStyle> {
        self.0.get().map(AsRef::as_ref)
    }

    /// Gives the layer its style and says whether it took it: a layer takes one style, once.
    pub fn set(&self, style: Arc<dyn LayerStyle>) -> bool {
        self.0.set(style).is_ok()
    }
}

/// Says what a layer is, for plans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerKind {
    /// A [`Linear`].
    Linear,
    /// An [`Embedding`](super::Embedding).
    Embedding,
    /// An [`RmsNorm`](super::RmsNorm) or [`LayerNorm`](super::LayerNorm).
    Norm,
    /// A [`Boundary`](super::Boundary).
    Boundary,
    /// A [`Dropout`](super::Dropout).
    Dropout,
}

impl fmt::Display for LayerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Linear => "linear",
            Self::Embedding => "embedding",
            Self::Norm => "norm",
            Self::Boundary => "boundary",
            Self::Dropout => "dropout",
        })
    }
}

/// A layer as its scope knows it.
#[derive(Debug, Clone)]
pub struct LayerEntry {
    /// What it is.
    pub kind: LayerKind,
    /// Where its style goes.
    pub style: StyleSlot,
}

/// Applies a function of sequences to a tensor of any rank, whose last two dimensions are taken as
/// sequence and features.
pub(super) fn on_sequences<const D: usize>(
    x: Tensor<D>,
    apply: impl FnOnce(Tensor<3>) -> Tensor<3>,
) -> Tensor<D> {
    let mut shape: [usize; D] = x.dims();
    let [sequence, features] = if D == 1 { [1, shape[0]] } else { [shape[D - 2], shape[D - 1]] };
    let leading = shape[..D.saturating_sub(2)].iter().product::<usize>();
    let y = apply(x.reshape([leading, sequence, features]));
    let [_, sequence, features] = y.dims();
    shape[D - 1] = features;
    if D > 1 {
        shape[D - 2] = sequence;
    }
    y.reshape(shape)
}
