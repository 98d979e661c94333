//! Where a parameter lies in a Hugging Face checkpoint, and how it is read from there.

use std::collections::BTreeMap;

use burn::tensor::TensorData;
use dream_trainer::checkpoint::Block;
use dream_trainer::checkpoint::hf::{HfDirectory, HfError, Layout};

/// Locates the tensor that holds one of our parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HfWeight {
    /// Name of the stored tensor.
    pub name: String,
    /// Shape of the stored tensor.
    pub shape: Vec<usize>,
    /// Whether our parameter is the transpose: torch's linear layers keep `[out, in]`, ours `[in,
    /// out]`.
    pub transpose: bool,
}

/// Maps each parameter path to its place in a Hugging Face checkpoint.
pub type HfWeights = BTreeMap<String, HfWeight>;

impl HfWeight {
    /// Locates a tensor stored as we keep it.
    pub(crate) fn plain(name: impl Into<String>, shape: &[usize]) -> Self {
        let (name, shape) = (name.into(), shape.to_vec());
        Self { name, shape, transpose: false }
    }

    /// Locates the weight of a linear layer that torch keeps as `[out, in]`.
    pub(crate) fn linear(name: impl Into<String>, inputs: usize, outputs: usize) -> Self {
        let (name, shape) = (name.into(), vec![outputs, inputs]);
        Self { name, shape, transpose: true }
    }

    /// Returns the shape of our parameter.
    pub fn param_shape(&self) -> Vec<usize> {
        let mut shape = self.shape.clone();
        if self.transpose {
            shape.reverse();
        }
        shape
    }

    /// Reads a block of our parameter as `f32`; `block` counts in our parameter's dimensions.
    pub fn read_block(
        &self,
        directory: &HfDirectory,
        block: &Block,
    ) -> Result<TensorData, HfError> {
        let layout = if self.transpose { Layout::Transposed } else { Layout::Stored };
        directory.read_f32(&self.name, block, layout)
    }
}
