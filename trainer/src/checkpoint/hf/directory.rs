//! Reading a directory: which tensors there are, and any block of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, TensorData};
use half::{bf16, f16};
use serde::Deserialize;
use serde_json::Value;

use super::error::HfError;
use super::fields::FieldReader;
use crate::checkpoint::block::{Block, copy_overlap};
use crate::checkpoint::manifest::is_plain_name;
use crate::checkpoint::tensor_file::{MappedTensor, TensorFile};
use crate::checkpoint::{dtype, host};
use crate::files::{MOST_TEXT_BYTES, read_regular};

/// How a block is read, and in which dims it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// As it lies in the file.
    Stored,
    /// With the two dims of a matrix exchanged.
    Transposed,
}

/// A Hugging Face directory whose weights are memory-mapped; threads may share it.
#[derive(Debug)]
pub struct HfDirectory {
    path: PathBuf,
    config: Value,
    files: Vec<TensorFile>,
    /// Position in `files` of each tensor.
    tensors: BTreeMap<String, usize>,
}

/// `model.safetensors.index.json`.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl HfDirectory {
    /// Opens `path`: parses `config.json`, maps every weight file and checks that all tensors of
    /// the index are there.
    pub fn open(path: &Path) -> Result<Self, HfError> {
        let config = read_json(&path.join("config.json"))?;
        let single = path.join("model.safetensors");
        let index = path.join("model.safetensors.index.json");
        let mut directory =
            Self { path: path.to_path_buf(), config, files: Vec::new(), tensors: BTreeMap::new() };
        let path = directory.path.clone();
        match (single.exists(), index.exists()) {
            (true, false) => directory.add(TensorFile::open(&single)?)?,
            (false, true) => directory.add_indexed(&read_json::<Index>(&index)?)?,
            (true, true) => return Err(HfError::TwoSetsOfWeights { path }),
            (false, false) => return Err(HfError::NoWeights { path }),
        }
        Ok(directory)
    }

    fn add_indexed(&mut self, index: &Index) -> Result<(), HfError> {
        let mut positions = BTreeMap::new();
        for (tensor, file) in &index.weight_map {
            if !is_plain_name(file) {
                let (path, tensor, file) = (self.path.clone(), tensor.clone(), file.clone());
                return Err(HfError::ForeignFile { path, tensor, file });
            }
            if !positions.contains_key(file) {
                positions.insert(file, self.files.len());
                self.add(TensorFile::open(&self.path.join(file))?)?;
            }
        }
        for (tensor, file) in &index.weight_map {
            if self.tensors.get(tensor) != positions.get(file) {
                let (tensor, path) = (tensor.clone(), self.path.join(file));
                return Err(HfError::Misplaced { tensor, path });
            }
        }
        Ok(())
    }

    fn add(&mut self, file: TensorFile) -> Result<(), HfError> {
        for name in file.names() {
            if let Some(first) = self.tensors.insert(name.to_owned(), self.files.len()) {
                return Err(HfError::Duplicate {
                    tensor: name.to_owned(),
                    first: self.files[first].path().to_path_buf(),
                    second: file.path().to_path_buf(),
                });
            }
        }
        self.files.push(file);
        Ok(())
    }

    /// Returns the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns `config.json`.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// Starts the strict reading of `config.json`.
    pub fn fields(&self) -> Result<FieldReader<'_>, HfError> {
        FieldReader::new(&self.config)
    }

    /// Returns the path of `tokenizer.json` if there is one.
    pub fn tokenizer(&self) -> Option<PathBuf> {
        Some(self.path.join("tokenizer.json")).filter(|path| path.is_file())
    }

    /// Returns the names of all tensors, sorted.
    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Returns the stored shape of a tensor.
    pub fn shape(&self, name: &str) -> Result<&[usize], HfError> {
        Ok(self.mapped(name)?.shape)
    }

    /// Reads a whole tensor in its stored type and layout.
    pub fn tensor(&self, name: &str) -> Result<TensorData, HfError> {
        let whole = Block::whole(self.shape(name)?);
        self.read_block(name, &whole, Layout::Stored)
    }

    /// Reads one block in its stored type; `block` counts in the dims of `layout`.
    pub fn read_block(
        &self,
        name: &str,
        block: &Block,
        layout: Layout,
    ) -> Result<TensorData, HfError> {
        let tensor = self.mapped(name)?;
        let dtype = dtype::to_host(tensor.dtype).ok_or_else(|| HfError::ElementType {
            tensor: name.to_owned(),
            found: tensor.dtype.to_string(),
            expected: "a type of at least 8 bits that the host computes with",
        })?;
        let stored = stored_block(name, tensor.shape, block, layout)?;
        let size = dtype.size();
        let copy = |target: &mut [u8]| {
            let whole = Block::whole(tensor.shape);
            copy_overlap(size, (&whole, tensor.bytes), (&stored, target));
        };
        let read = match layout {
            Layout::Stored => host::tensor(&block.shape, dtype, copy),
            Layout::Transposed => {
                let mut straight = vec![0; stored.shape.iter().product::<usize>() * size];
                copy(&mut straight);
                host::tensor(&block.shape, dtype, |target| match size {
                    1 => transpose::<1>(&straight, &stored.shape, target),
                    2 => transpose::<2>(&straight, &stored.shape, target),
                    4 => transpose::<4>(&straight, &stored.shape, target),
                    _ => transpose::<8>(&straight, &stored.shape, target),
                })
            }
        };
        read.map_err(|source| HfError::Host { tensor: name.to_owned(), source })
    }

    /// Reads one block as `f32`, widening `bf16` and `f16`; `block` counts in the dims of `layout`.
    pub fn read_f32(
        &self,
        name: &str,
        block: &Block,
        layout: Layout,
    ) -> Result<TensorData, HfError> {
        let read = self.read_block(name, block, layout)?;
        let (pairs, _) = read.as_bytes().as_chunks::<2>();
        let values: Vec<f32> = match read.dtype() {
            DType::F32 => return Ok(read),
            DType::BF16 => pairs.iter().map(|pair| bf16::from_le_bytes(*pair).to_f32()).collect(),
            DType::F16 => pairs.iter().map(|pair| f16::from_le_bytes(*pair).to_f32()).collect(),
            other => {
                let (tensor, found) = (name.to_owned(), other.name().to_owned());
                let expected = "`f32`, `bf16` or `f16`";
                return Err(HfError::ElementType { tensor, found, expected });
            }
        };
        Ok(TensorData::new(values, block.shape.clone()))
    }

    fn mapped(&self, name: &str) -> Result<MappedTensor<'_>, HfError> {
        let file = self.tensors.get(name).and_then(|&position| self.files.get(position));
        file.and_then(|file| file.tensor(name)).ok_or_else(|| HfError::UnknownTensor {
            tensor: name.to_owned(),
            path: self.path.clone(),
        })
    }
}

/// Turns a block counted in the dims of `layout` into one of the stored tensor.
fn stored_block(
    name: &str,
    shape: &[usize],
    block: &Block,
    layout: Layout,
) -> Result<Block, HfError> {
    let reversed = |dims: &[usize]| dims.iter().rev().copied().collect::<Vec<_>>();
    let (stored, shape_seen) = match layout {
        Layout::Stored => (block.clone(), shape.to_vec()),
        Layout::Transposed if shape.len() == 2 => {
            let stored = Block::new(reversed(&block.offset), reversed(&block.shape));
            (stored, reversed(shape))
        }
        Layout::Transposed => {
            let (tensor, shape) = (name.to_owned(), shape.to_vec());
            return Err(HfError::NotAMatrix { tensor, shape });
        }
    };
    if stored.fits(shape) {
        return Ok(stored);
    }
    let (tensor, block) = (name.to_owned(), block.clone());
    Err(HfError::OutOfBounds { tensor, block, shape: shape_seen })
}

/// Exchanges rows and columns of a matrix of `SIZE`-byte elements, tile by tile to stay in the
/// cache.
fn transpose<const SIZE: usize>(source: &[u8], shape: &[usize], target: &mut [u8]) {
    const TILE: usize = 32;
    let (rows, cols) = (shape[0], shape[1]);
    let (source, _) = source.as_chunks::<SIZE>();
    let (target, _) = target.as_chunks_mut::<SIZE>();
    if source.is_empty() {
        // One dim is 0; the other may be anything a file claims, and is not to be walked.
        return;
    }
    for row_tile in (0..rows).step_by(TILE) {
        for col_tile in (0..cols).step_by(TILE) {
            for col in col_tile..cols.min(col_tile + TILE) {
                for row in row_tile..rows.min(row_tile + TILE) {
                    target[col * rows + row] = source[row * cols + col];
                }
            }
        }
    }
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, HfError> {
    let text = read_regular(path, MOST_TEXT_BYTES).map_err(HfError::io("read", path))?;
    serde_json::from_slice(&text)
        .map_err(|source| HfError::Json { path: path.to_path_buf(), source })
}
