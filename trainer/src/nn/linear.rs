//! Affine map.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};

use super::style::{HeadTable, LayerKind, StyleSlot, on_sequences};
use super::{Initializer, Scope};
use crate::kernels;

/// Configures a [`Linear`].
#[derive(Debug, Clone)]
pub struct LinearConfig {
    d_input: usize,
    d_output: usize,
    bias: bool,
    initializer: Initializer,
}

impl LinearConfig {
    /// Creates a configuration without bias and with `PyTorch`'s default of uniform values in `1 /
    /// sqrt(d_input)`.
    pub fn new(d_input: usize, d_output: usize) -> Self {
        let bound = 1.0 / (d_input as f64).sqrt();
        Self { d_input, d_output, bias: false, initializer: Initializer::Uniform { bound } }
    }

    /// Adds a bias, which starts at zero.
    #[must_use]
    pub fn with_bias(mut self, bias: bool) -> Self {
        self.bias = bias;
        self
    }

    /// Chooses the distribution of the weight.
    #[must_use]
    pub fn with_initializer(mut self, initializer: Initializer) -> Self {
        self.initializer = initializer;
        self
    }

    /// Builds the layer under `scope`.
    pub fn init(&self, scope: &Scope) -> Linear {
        Linear {
            weight: scope.param("weight", [self.d_input, self.d_output], self.initializer),
            bias: self
                .bias
                .then(|| scope.param("bias", [self.d_output], Initializer::Constant(0.0))),
            style: scope.layer(LayerKind::Linear),
        }
    }
}

/// Computes `x W + b`.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[d_input, d_output]`, the transpose of `PyTorch`'s storage.
    pub weight: Param<Tensor<2>>,
    /// `[d_output]`.
    pub bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    style: StyleSlot,
}

impl Linear {
    /// Applies the map to the last dimension.
    ///
    /// # Shapes
    ///
    /// `[.., d_input]` to `[.., d_output]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let (weight, bias) = (self.weight.val(), self.bias.as_ref().map(Param::val));
        match self.style.get() {
            Some(style) => on_sequences(x, |x| style.linear(x, weight, bias)),
            None => kernels::linear(x, weight, bias),
        }
    }

    /// Applies several layers to one input: the numbers of [`Self::forward`], as one operation where no layer has a style.
    pub(super) fn project<const N: usize>(x: Tensor<3>, layers: [&Self; N]) -> [Tensor<3>; N] {
        if layers.iter().any(|layer| layer.style.get().is_some()) {
            return layers.map(|layer| layer.forward(x.clone()));
        }
        let parameters = |layer: &Self| (layer.weight.val(), layer.bias.as_ref().map(Param::val));
        let outputs = kernels::project(x, layers.into_iter().map(parameters).collect());
        outputs.try_into().expect("one output per layer")
    }

    /// Computes all logits, as the output projection of a language model without bias.
    ///
    /// # Shapes
    ///
    /// `[b, s, h]` to `[b, s, v]`.
    pub fn logits(&self, hidden: Tensor<3>) -> Tensor<3> {
        match self.style.get() {
            Some(style) => style.logits(hidden, HeadTable::Projection(self.weight.val())),
            None => kernels::linear(hidden, self.weight.val(), None),
        }
    }

    /// Sums the cross-entropy of all labels that are not [`kernels::IGNORE_INDEX`], without holding
    /// the logits of all tokens.
    ///
    /// # Shapes
    ///
    /// `hidden` is `[b, s, h]`, `labels` is `[b s]`; the result is `[1]`.
    pub fn cross_entropy(&self, hidden: Tensor<3>, labels: Tensor<1, Int>) -> Tensor<1> {
        let weight = self.weight.val();
        if let Some(style) = self.style.get() {
            return style.cross_entropy(hidden, HeadTable::Projection(weight), labels);
        }
        let [b, s, h] = hidden.dims();
        kernels::linear_cross_entropy(hidden.reshape([b * s, h]), weight, labels)
    }
}
