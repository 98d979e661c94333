//! The multi-layer perceptron module.
//!
//! Legend of shapes: `b` batch, `i` input size, `o` output size.

use burn::module::Module;
use burn::tensor::{Tensor, activation};
use dream_trainer::fsdp::Unit;
use dream_trainer::kernels;
use dream_trainer::nn::{Linear, LinearConfig, Scope};

use super::{Activation, MlpConfig};

/// Linear layers with an activation between them. A pipeline stage holds some of them.
#[derive(Module, Debug)]
pub struct Mlp {
    /// Linear layers.
    pub layers: Vec<Unit<Linear>>,
    #[module(skip)]
    activation: Activation,
    #[module(skip)]
    activate_output: bool,
}

impl Mlp {
    pub(crate) fn new(config: &MlpConfig, scope: &Scope) -> Self {
        let scope = scope.child("layers");
        let linear = |(layer, pair): (usize, &[usize])| {
            let linear = LinearConfig::new(pair[0], pair[1]).with_bias(config.bias);
            Unit::new(linear.init(&scope.child(layer)))
        };
        Self {
            layers: config.widths.windows(2).enumerate().map(linear).collect(),
            activation: config.activation,
            activate_output: config.activate_output,
        }
    }

    /// Applies all layers.
    ///
    /// # Shapes
    ///
    /// `[b, i]` to `[b, o]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        (0..self.layers.len()).fold(x, |x, layer| self.layer(layer, x))
    }

    /// Applies layer `index` and the activation that follows it.
    ///
    /// # Panics
    ///
    /// If there is no such layer.
    pub fn layer(&self, index: usize, x: Tensor<2>) -> Tensor<2> {
        let x = self.layers[index].forward(x, Linear::forward);
        if index + 1 == self.layers.len() && !self.activate_output {
            return x;
        }
        match self.activation {
            Activation::Relu => activation::relu(x),
            Activation::Gelu => kernels::gelu(x),
        }
    }
}
