//! Writing a directory that the Hugging Face libraries load.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use burn::tensor::TensorData;
use serde_json::Value;

use super::error::HfError;
use crate::checkpoint::dtype;
use crate::checkpoint::tensor_file::{self, TensorSource};

/// Writes `model.safetensors` and then `config.json` into `path`, which is created if needed.
///
/// Tensors come under their Hugging Face names, whole and in the stored layout.
///
/// # Errors
///
/// Either file exists already: nothing is overwritten. A type without a form on disk. A failed
/// write.
pub fn export(
    path: &Path,
    config: &Value,
    tensors: &BTreeMap<String, TensorData>,
) -> Result<(), HfError> {
    let (weights, config_path) = (path.join("model.safetensors"), path.join("config.json"));
    if let Some(path) = [&weights, &config_path].into_iter().find(|path| path.exists()) {
        return Err(HfError::Exists { path: path.clone() });
    }
    let sources = tensors.iter().map(describe).collect::<Result<Vec<_>, HfError>>()?;
    fs::create_dir_all(path).map_err(HfError::io("create", path))?;
    // The loaders of other frameworks ask for this entry.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    tensor_file::write(&weights, sources, Some(metadata))?;
    fs::write(&config_path, format!("{config:#}\n")).map_err(HfError::io("write", &config_path))
}

fn describe<'a>((name, data): (&String, &'a TensorData)) -> Result<TensorSource<'a>, HfError> {
    let dtype = dtype::to_file(data.dtype()).ok_or_else(|| HfError::ElementType {
        tensor: name.clone(),
        found: data.dtype().name().to_owned(),
        expected: "a plain float, integer or boolean type",
    })?;
    let shape = data.shape().as_slice().to_vec();
    Ok(TensorSource { name: name.clone(), dtype, shape, bytes: data.as_bytes() })
}
