//! The `[model]` table of a Llama 3 run.

use std::path::PathBuf;

use dream_trainer::world::path_with_home;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Llama3Shape, RopeScalingConfig};
use crate::error::{ModelError, divided};

/// Size of a published Llama 3 model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
pub enum Flavor {
    /// 6.2 million parameters with a vocabulary of 2048, for tests and first steps.
    #[default]
    #[serde(rename = "debug")]
    Debug,
    /// Llama 3.2 1B, tied head.
    #[serde(rename = "1B")]
    B1,
    /// Llama 3.2 3B, tied head.
    #[serde(rename = "3B")]
    B3,
    /// Llama 3.1 8B.
    #[serde(rename = "8B")]
    B8,
    /// Llama 3.1 70B.
    #[serde(rename = "70B")]
    B70,
    /// Llama 3.1 405B.
    #[serde(rename = "405B")]
    B405,
}

/// Shape of a Llama 3 model: a flavor with overrides, or a Hugging Face folder.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Llama3Config {
    /// Published size to start from: `debug`, `1B`, `3B`, `8B`, `70B` or `405B`. Default `debug`.
    /// Excludes `hf_dir`.
    pub flavor: Option<Flavor>,
    /// Hugging Face folder whose `config.json` gives the shape and whose weights a fresh run starts
    /// from. Only `rope_theta`, `rope_scaling` and `max_seq_len` may be given beside it.
    pub hf_dir: Option<PathBuf>,
    /// Size of the hidden states. A multiple of `num_heads`, unless `head_dim` is given. Default:
    /// the flavor's.
    pub dim: Option<usize>,
    /// Number of transformer blocks, at least 1. Default: the flavor's.
    pub num_layers: Option<usize>,
    /// Number of query heads, at least 1. Default: the flavor's.
    pub num_heads: Option<usize>,
    /// Number of key and value heads; must divide `num_heads`. Default: the flavor's.
    pub num_kv_heads: Option<usize>,
    /// Size of one head, even. Default: `dim / num_heads`.
    pub head_dim: Option<usize>,
    /// Width of the feed-forward layer, at least 1. Default: the flavor's.
    pub ffn_dim: Option<usize>,
    /// Number of tokens the embedding and the head know, at least 1. Default: the flavor's.
    pub vocab_size: Option<usize>,
    /// Base of the rotary frequencies. Default 500000.
    pub rope_theta: Option<f64>,
    /// Stretching of the rotary frequencies. Default: the flavor's, `llama3` with low 1, high 4,
    /// original 8192 and factor 32 for `1B` and `3B`, as Llama 3.2 has it, or 8 as Llama 3.1.
    pub rope_scaling: Option<RopeScalingConfig>,
    /// Added to the mean square in every norm. Default 1e-5.
    pub norm_eps: Option<f64>,
    /// Shares the token embedding with the output projection. Default: the flavor's.
    pub tied_embeddings: Option<bool>,
    /// Gives the four projections of attention (queries, keys, values, output) a bias. Default
    /// false.
    pub attention_bias: Option<bool>,
    /// Gives the three projections of the feed-forward layer a bias. Default false.
    pub mlp_bias: Option<bool>,
    /// Longest sequence, in tokens, the model may be run on; costs no parameters. Default 131072.
    pub max_seq_len: Option<usize>,
}

impl Llama3Config {
    /// Returns the shape with every size concrete and checked.
    ///
    /// With `hf_dir` it reads that folder's `config.json`.
    ///
    /// # Errors
    ///
    /// Fails on sizes that do not divide, on keys that contradict `hf_dir`, and on a `config.json`
    /// that is not a Llama this model computes exactly.
    pub fn resolve(&self) -> Result<Llama3Shape, ModelError> {
        let mut shape = match &self.hf_dir {
            Some(dir) => {
                self.check_beside_hf_dir()?;
                Llama3Shape::from_hf_dir(&path_with_home(dir))?
            }
            None => self.sized(&Llama3Shape::flavor(self.flavor.unwrap_or_default()))?,
        };
        shape.rope_theta = self.rope_theta.unwrap_or(shape.rope_theta);
        if let Some(scaling) = &self.rope_scaling {
            shape.rope_scaling = scaling.resolve()?;
        }
        shape.max_seq_len = self.max_seq_len.unwrap_or(shape.max_seq_len);
        shape.validate()?;
        Ok(shape)
    }

    fn sized(&self, flavor: &Llama3Shape) -> Result<Llama3Shape, ModelError> {
        let dim = self.dim.unwrap_or(flavor.dim);
        let num_heads = self.num_heads.unwrap_or(flavor.num_heads);
        let head_dim = match self.head_dim {
            Some(head_dim) => head_dim,
            None => divided("dim", dim, "num_heads", num_heads)?,
        };
        Ok(Llama3Shape {
            dim,
            num_layers: self.num_layers.unwrap_or(flavor.num_layers),
            num_heads,
            num_kv_heads: self.num_kv_heads.unwrap_or(flavor.num_kv_heads),
            head_dim,
            ffn_dim: self.ffn_dim.unwrap_or(flavor.ffn_dim),
            vocab_size: self.vocab_size.unwrap_or(flavor.vocab_size),
            norm_eps: self.norm_eps.unwrap_or(flavor.norm_eps),
            tied_embeddings: self.tied_embeddings.unwrap_or(flavor.tied_embeddings),
            attention_bias: self.attention_bias.unwrap_or(flavor.attention_bias),
            mlp_bias: self.mlp_bias.unwrap_or(flavor.mlp_bias),
            ..flavor.clone()
        })
    }

    fn check_beside_hf_dir(&self) -> Result<(), ModelError> {
        let given = [
            ("flavor", self.flavor.is_some()),
            ("dim", self.dim.is_some()),
            ("num_layers", self.num_layers.is_some()),
            ("num_heads", self.num_heads.is_some()),
            ("num_kv_heads", self.num_kv_heads.is_some()),
            ("head_dim", self.head_dim.is_some()),
            ("ffn_dim", self.ffn_dim.is_some()),
            ("vocab_size", self.vocab_size.is_some()),
            ("norm_eps", self.norm_eps.is_some()),
            ("tied_embeddings", self.tied_embeddings.is_some()),
            ("attention_bias", self.attention_bias.is_some()),
            ("mlp_bias", self.mlp_bias.is_some()),
        ];
        match given.into_iter().find(|(_, given)| *given) {
            Some((key, _)) => Err(ModelError::FixedBy { key, fixed_by: "hf_dir" }),
            None => Ok(()),
        }
    }
}
