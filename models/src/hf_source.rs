//! Weights read from a Hugging Face folder, parameter by parameter.

use std::collections::BTreeSet;

use burn::tensor::TensorData;
use dream_trainer::checkpoint::Block;
use dream_trainer::checkpoint::hf::HfDirectory;
use dream_trainer::mesh;
use dream_trainer::train::{Result, WeightSource};

use crate::{HfWeights, ModelError};

/// A Hugging Face folder seen through a model's table of names.
pub struct HfSource {
    directory: HfDirectory,
    weights: HfWeights,
    /// Tensors that nothing reads.
    unknown: BTreeSet<String>,
}

impl HfSource {
    /// Joins a folder and a table. Tensors that the table does not name, and `is_redundant` does not
    /// know, are among [`WeightSource::paths`] under their own names.
    pub fn new(
        directory: HfDirectory,
        weights: HfWeights,
        is_redundant: impl Fn(&str) -> bool,
    ) -> Self {
        let known: BTreeSet<&str> = weights.values().map(|weight| weight.name.as_str()).collect();
        let names = directory.tensor_names();
        let unknown = names.filter(|name| !known.contains(name) && !is_redundant(name));
        let unknown = unknown.map(Into::into).collect();
        Self { directory, weights, unknown }
    }
}

impl WeightSource for HfSource {
    fn paths(&self) -> BTreeSet<String> {
        let stored = |name: &str| self.directory.shape(name).is_ok();
        let named = self.weights.iter().filter(|(_, weight)| stored(&weight.name));
        named.map(|(path, _)| path.clone()).chain(self.unknown.iter().cloned()).collect()
    }

    fn read(&self, path: &str, _: &[usize], block: &mesh::Block) -> Result<Option<TensorData>> {
        let Some(weight) = self.weights.get(path) else { return Ok(None) };
        let found = self.directory.shape(&weight.name)?;
        if found != weight.shape {
            let (tensor, found) = (weight.name.clone(), found.to_vec());
            let expected = weight.shape.clone();
            return Err(ModelError::HfShape { tensor, found, expected }.into());
        }
        let block = Block::new(block.offset.clone(), block.shape.clone());
        Ok(Some(weight.read_block(&self.directory, &block)?))
    }

    fn describe(&self) -> String {
        format!("the Hugging Face folder {}", self.directory.path().display())
    }
}
