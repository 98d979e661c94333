//! What can be wrong with a Hugging Face directory.

use std::io;
use std::path::{Path, PathBuf};

use burn::tensor::DataError;
use thiserror::Error;

use crate::checkpoint::block::Block;
use crate::checkpoint::tensor_file::TensorFileError;

/// An error of reading or writing a Hugging Face directory.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HfError {
    /// The file system refused something.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A JSON file is damaged or lacks what it must have.
    #[error("`{}` cannot be understood", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A weight file is missing or damaged.
    #[error(transparent)]
    TensorFile(#[from] TensorFileError),
    /// An export would overwrite something.
    #[error("`{}` exists already", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// There are no weights that can be read.
    #[error("`{}` has neither `model.safetensors` nor `model.safetensors.index.json`", path.display())]
    NoWeights {
        /// The directory.
        path: PathBuf,
    },
    /// There are two sets of weights.
    #[error("`{}` has both `model.safetensors` and `model.safetensors.index.json`", path.display())]
    TwoSetsOfWeights {
        /// The directory.
        path: PathBuf,
    },
    /// The index names a file outside of the directory.
    #[error("index of `{}` places `{tensor}` in `{file}`, which is no file name", path.display())]
    ForeignFile {
        /// The directory.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The file as named.
        file: String,
    },
    /// The index places a tensor in a file that does not hold it.
    #[error("index places `{tensor}` in `{}`, which does not hold it", path.display())]
    Misplaced {
        /// The tensor.
        tensor: String,
        /// The file.
        path: PathBuf,
    },
    /// Two files hold a tensor of one name.
    #[error("tensor `{tensor}` is in `{}` and again in `{}`", first.display(), second.display())]
    Duplicate {
        /// The tensor.
        tensor: String,
        /// One file.
        first: PathBuf,
        /// The other file.
        second: PathBuf,
    },
    /// The directory has no such tensor.
    #[error("weights in `{}` have no tensor `{tensor}`", path.display())]
    UnknownTensor {
        /// The tensor.
        tensor: String,
        /// The directory.
        path: PathBuf,
    },
    /// The element type is not one that was asked for or can be held.
    #[error("tensor `{tensor}` has element type `{found}` but must have {expected}")]
    ElementType {
        /// The tensor.
        tensor: String,
        /// Its type.
        found: String,
        /// The types that would do.
        expected: &'static str,
    },
    /// The bytes read do not form a tensor of this host.
    #[error("tensor `{tensor}` cannot be held in memory")]
    Host {
        /// The tensor.
        tensor: String,
        /// The reason.
        source: DataError,
    },
    /// A block was asked for that the tensor does not have.
    #[error("block {block} of `{tensor}` lies outside of its shape {shape:?}")]
    OutOfBounds {
        /// The tensor.
        tensor: String,
        /// The asked block.
        block: Block,
        /// The shape, in the layout that was asked for.
        shape: Vec<usize>,
    },
    /// Only matrices can be read transposed.
    #[error("tensor `{tensor}` of shape {shape:?} cannot be transposed: it must have 2 dims")]
    NotAMatrix {
        /// The tensor.
        tensor: String,
        /// Its stored shape.
        shape: Vec<usize>,
    },
    /// What is a table of fields elsewhere is something else here.
    #[error("`{field}` must be a table of fields")]
    NotATable {
        /// The field; `config.json` for the whole.
        field: String,
    },
    /// A field that must be there is not.
    #[error("`{field}` is missing in `config.json`")]
    MissingField {
        /// The field.
        field: String,
    },
    /// A field has a value of another kind.
    #[error("`{field}` of `config.json` is `{value}`")]
    FieldType {
        /// The field.
        field: String,
        /// Its value.
        value: String,
        /// What was expected.
        source: serde_json::Error,
    },
    /// A field asks for mathematics that the model does not have.
    #[error("`{field}` of `config.json` is `{value}` but only `{supported}` is supported")]
    FieldValue {
        /// The field.
        field: String,
        /// Its value.
        value: String,
        /// The value that is supported.
        supported: String,
    },
    /// Fields that nobody read: each may change the mathematics.
    #[error("`config.json` has fields of unknown meaning: {}", named(fields))]
    UnknownFields {
        /// The fields and their values.
        fields: Vec<(String, String)>,
    },
}

fn named(fields: &[(String, String)]) -> String {
    let name = |(field, value): &(String, String)| format!("`{field}` = {value}");
    fields.iter().map(name).collect::<Vec<_>>().join(", ")
}

impl HfError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_path_buf(), source }
    }
}
