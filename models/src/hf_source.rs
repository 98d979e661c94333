//! Weights read from a Hugging Face folder, parameter by parameter.

use burn::tensor::TensorData;
use dream_trainer::checkpoint::Block;
use dream_trainer::checkpoint::hf::HfDirectory;
use dream_trainer::mesh;
use dream_trainer::train::{Result, WeightSource};

use crate::{HfWeights, check_hf_tensors};

/// A Hugging Face folder seen through a model's table of names.
pub struct HfSource {
    directory: HfDirectory,
    weights: HfWeights,
}

impl HfSource {
    /// Joins a folder and a table.
    ///
    /// # Errors
    ///
    /// A tensor of the table is not in the folder or has another shape, or the folder has a tensor
    /// that nothing reads and `is_redundant` does not know.
    pub fn new(
        directory: HfDirectory,
        weights: HfWeights,
        is_redundant: impl Fn(&str) -> bool,
    ) -> Result<Self> {
        check_hf_tensors(&weights, &directory, is_redundant)?;
        Ok(Self { directory, weights })
    }
}

impl WeightSource for HfSource {
    fn read(&self, path: &str, _: &[usize], block: &mesh::Block) -> Result<Option<TensorData>> {
        let Some(weight) = self.weights.get(path) else { return Ok(None) };
        let block = Block::new(block.offset.clone(), block.shape.clone());
        Ok(Some(weight.read_block(&self.directory, &block)?))
    }

    fn describe(&self) -> String {
        format!("the Hugging Face folder {}", self.directory.path().display())
    }
}
