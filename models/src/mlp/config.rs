//! The `[model]` table of an MLP run.

use dream_trainer::nn::Scope;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Mlp;
use crate::error::{ModelError, positive};
use crate::size;

/// Function between two layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `max(x, 0)`.
    #[default]
    Relu,
    /// Gaussian error linear unit in its exact form.
    Gelu,
}

/// Shape of a multi-layer perceptron.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MlpConfig {
    /// Size of the input and of each layer's output, each at least 1; n + 1 sizes make n layers.
    /// Default `[128, 128, 128]`.
    pub widths: Vec<usize>,
    /// Function between two layers: `relu` or `gelu`. Default `relu`.
    pub activation: Activation,
    /// Applies the activation to the last layer's output too. Default false.
    pub activate_output: bool,
    /// Gives each layer a bias. Default false.
    pub bias: bool,
}

impl Default for MlpConfig {
    fn default() -> Self {
        Self {
            widths: vec![128; 3],
            activation: Activation::Relu,
            activate_output: false,
            bias: false,
        }
    }
}

impl MlpConfig {
    /// Returns `num_layers` square GELU layers of size `dim`, the last one activated too.
    pub fn gelu(dim: usize, num_layers: usize) -> Self {
        Self {
            widths: vec![dim; num_layers + 1],
            activation: Activation::Gelu,
            activate_output: true,
            bias: false,
        }
    }

    /// Checks that there is a layer and that no size is zero.
    pub fn validate(&self) -> Result<(), ModelError> {
        if self.widths.len() < 2 {
            let (value, constraint) = (self.widths.len() as f64, "at least 2, input and output");
            return Err(ModelError::OutOfRange { key: "widths.len", value, constraint });
        }
        self.widths.iter().try_for_each(|&width| positive("widths", width))?;
        let sizes: Vec<_> = self.widths.iter().map(|&width| ("widths", width)).collect();
        let parameters = self.widths.windows(2).map(|pair| pair[0] as f64 * pair[1] as f64).sum();
        size::check(("widths.len", self.widths.len() - 1), &sizes, parameters)
    }

    /// Builds the model under `scope`; its parameters stay empty until they are used.
    ///
    /// # Errors
    ///
    /// Fails as [`Self::validate`] does.
    pub fn init(&self, scope: &Scope) -> Result<Mlp, ModelError> {
        self.validate()?;
        Ok(Mlp::new(self, scope))
    }

    /// Returns the number of parameters.
    pub fn num_params(&self) -> usize {
        let inputs_and_bias = |inputs| inputs + usize::from(self.bias);
        self.widths.windows(2).map(|pair| inputs_and_bias(pair[0]) * pair[1]).sum()
    }

    /// Returns the numbers that one row makes operations keep for the backward pass on one of `tp`
    /// ranks: the input of each product, and that of each GELU.
    pub(super) fn saved_per_row(&self, tp: usize) -> usize {
        let layers = self.widths.len() - 1;
        // Layers split in pairs: what lies inside a pair lies in parts.
        let inside = |layer: usize| layer % 2 == 1;
        let part = |width: usize, is_split: bool| if is_split { width / tp } else { width };
        let inputs = (0..layers).map(|layer| part(self.widths[layer], inside(layer)));
        let activated = if self.activate_output { layers } else { layers - 1 };
        let outputs = (0..activated)
            .map(|layer| part(self.widths[layer + 1], !inside(layer) && layer + 1 < layers));
        match self.activation {
            // The result of a ReLU is the input of the next product.
            Activation::Relu => inputs.sum(),
            Activation::Gelu => inputs.chain(outputs).sum(),
        }
    }

    /// Returns the floating-point operations of one row's forward and backward.
    pub fn flops_per_row(&self) -> f64 {
        6.0 * self.num_params() as f64
    }
}
