//! Normalizations over the last dimension.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::style::{LayerKind, StyleSlot, on_sequences};
use super::{Initializer, Scope};
use crate::kernels;

/// Configures an [`RmsNorm`].
#[derive(Debug, Clone)]
pub struct RmsNormConfig {
    d_model: usize,
    epsilon: f64,
}

impl RmsNormConfig {
    /// Creates a configuration with epsilon 1e-5.
    pub fn new(d_model: usize) -> Self {
        Self { d_model, epsilon: 1e-5 }
    }

    /// Chooses the value added to the mean square.
    #[must_use]
    pub fn with_epsilon(mut self, epsilon: f64) -> Self {
        self.epsilon = epsilon;
        self
    }

    /// Builds the layer under `scope`; its weight starts at one.
    pub fn init(&self, scope: &Scope) -> RmsNorm {
        RmsNorm {
            weight: scope.param("weight", [self.d_model], Initializer::Constant(1.0)),
            epsilon: self.epsilon,
            style: scope.layer(LayerKind::Norm),
        }
    }
}

/// Divides by the root mean square and scales.
///
/// # References
///
/// Zhang and Sennrich, "Root Mean Square Layer Normalization", arXiv:1910.07467.
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// `[d_model]`.
    pub weight: Param<Tensor<1>>,
    #[module(skip)]
    epsilon: f64,
    #[module(skip)]
    style: StyleSlot,
}

impl RmsNorm {
    /// Normalizes the last dimension.
    ///
    /// # Shapes
    ///
    /// `[.., d_model]` to the same.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        within(&self.style, x, |x| kernels::rms_norm(x, self.weight.val(), self.epsilon))
    }

    /// Adds `delta` to `x` and normalizes the sum; returns the sum and its norm.
    ///
    /// # Shapes
    ///
    /// `[.., d_model]` to twice the same.
    pub fn forward_sum<const D: usize>(&self, x: Tensor<D>, delta: Tensor<D>) -> [Tensor<D>; 2] {
        if self.style.get().is_some() {
            let sum = x + delta;
            return [sum.clone(), self.forward(sum)];
        }
        kernels::add_rms_norm(x, delta, self.weight.val(), self.epsilon)
    }
}

/// Configures a [`LayerNorm`].
#[derive(Debug, Clone)]
pub struct LayerNormConfig {
    d_model: usize,
    epsilon: f64,
    bias: bool,
}

impl LayerNormConfig {
    /// Creates a configuration with epsilon 1e-5 and a bias.
    pub fn new(d_model: usize) -> Self {
        Self { d_model, epsilon: 1e-5, bias: true }
    }

    /// Chooses the value added to the variance.
    #[must_use]
    pub fn with_epsilon(mut self, epsilon: f64) -> Self {
        self.epsilon = epsilon;
        self
    }

    /// Chooses whether a bias is added.
    #[must_use]
    pub fn with_bias(mut self, bias: bool) -> Self {
        self.bias = bias;
        self
    }

    /// Builds the layer under `scope`; its weight starts at one, its bias at zero.
    pub fn init(&self, scope: &Scope) -> LayerNorm {
        LayerNorm {
            weight: scope.param("weight", [self.d_model], Initializer::Constant(1.0)),
            bias: self
                .bias
                .then(|| scope.param("bias", [self.d_model], Initializer::Constant(0.0))),
            epsilon: self.epsilon,
            style: scope.layer(LayerKind::Norm),
        }
    }
}

/// Subtracts the mean, divides by the standard deviation, scales and shifts.
///
/// # References
///
/// Ba, Kiros and Hinton, "Layer Normalization", arXiv:1607.06450.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// `[d_model]`.
    pub weight: Param<Tensor<1>>,
    /// `[d_model]`.
    pub bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    epsilon: f64,
    #[module(skip)]
    style: StyleSlot,
}

impl LayerNorm {
    /// Normalizes the last dimension.
    ///
    /// # Shapes
    ///
    /// `[.., d_model]` to the same.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let bias = self.bias.as_ref().map(Param::val);
        within(&self.style, x, |x| kernels::layer_norm(x, self.weight.val(), bias, self.epsilon))
    }

    /// Adds `delta` to `x` and normalizes the sum; returns the sum and its norm.
    ///
    /// # Shapes
    ///
    /// `[.., d_model]` to twice the same.
    pub fn forward_sum<const D: usize>(&self, x: Tensor<D>, delta: Tensor<D>) -> [Tensor<D>; 2] {
        if self.style.get().is_some() {
            let sum = x + delta;
            return [sum.clone(), self.forward(sum)];
        }
        let bias = self.bias.as_ref().map(Param::val);
        kernels::add_layer_norm(x, delta, self.weight.val(), bias, self.epsilon)
    }
}

/// Runs a norm between the two halves of its style.
fn within<const D: usize>(
    style: &StyleSlot,
    x: Tensor<D>,
    norm: impl FnOnce(Tensor<D>) -> Tensor<D>,
) -> Tensor<D> {
    let Some(style) = style.get() else { return norm(x) };
    let y = norm(on_sequences(x, |x| style.input(x)));
    on_sequences(y, |y| style.output(y))
}
