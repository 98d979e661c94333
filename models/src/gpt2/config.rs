//! The `[model]` table of a GPT-2-style run.

use dream_trainer::nn::Scope;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Gpt2;
use crate::activations::Transformer;
use crate::error::{ModelError, divided, positive, positive_number, share};
use crate::size;

/// Shape of a GPT-2-style transformer. The defaults are a small model without biases over GPT-2's
/// vocabulary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Gpt2Config {
    /// Number of tokens the embedding and the head know, at least 1. Default 50257.
    pub vocab_size: usize,
    /// Longest sequence, in tokens; each position has a learned vector. Default 1024.
    pub max_seq_len: usize,
    /// Size of the hidden states, a multiple of `num_heads`. Default 256.
    pub dim: usize,
    /// Number of transformer blocks, at least 1. Default 2.
    pub num_layers: usize,
    /// Number of attention heads, at least 1. Default 8.
    pub num_heads: usize,
    /// Gives linear layers and norms a bias. Default false.
    pub bias: bool,
    /// Added to the variance in every norm. Default 1e-5.
    pub norm_eps: f64,
    /// Probability with which an element of the embeddings, or of what attention and feed-forward
    /// add to the hidden states, is dropped while training, at least 0 and below 1. Attention
    /// probabilities are never dropped: the fused attention does not hold them. Default 0.
    pub dropout: f64,
}

impl Default for Gpt2Config {
    fn default() -> Self {
        Self {
            vocab_size: 50_257,
            max_seq_len: 1024,
            dim: 256,
            num_layers: 2,
            num_heads: 8,
            bias: false,
            norm_eps: 1e-5,
            dropout: 0.0,
        }
    }
}

impl Gpt2Config {
    /// Returns the shape with every size checked.
    ///
    /// # Errors
    ///
    /// Fails on a zero, on sizes that do not divide and on numbers out of range, naming both sides.
    pub fn resolve(&self) -> Result<Gpt2Shape, ModelError> {
        positive("vocab_size", self.vocab_size)?;
        positive("max_seq_len", self.max_seq_len)?;
        positive("dim", self.dim)?;
        positive("num_layers", self.num_layers)?;
        positive_number("norm_eps", self.norm_eps)?;
        share("dropout", self.dropout)?;
        self.check_size()?;
        let head_dim = divided("dim", self.dim, "num_heads", self.num_heads)?;
        Ok(Gpt2Shape {
            vocab_size: self.vocab_size,
            max_seq_len: self.max_seq_len,
            dim: self.dim,
            num_layers: self.num_layers,
            num_heads: self.num_heads,
            head_dim,
            ffn_dim: 4 * self.dim,
            bias: self.bias,
            norm_eps: self.norm_eps,
            dropout: self.dropout,
        })
    }
}

impl Gpt2Config {
    fn check_size(&self) -> Result<(), ModelError> {
        let sizes = [
            ("dim", self.dim),
            ("vocab_size", self.vocab_size),
            ("max_seq_len", self.max_seq_len),
            ("num_heads", self.num_heads),
        ];
        let [dim, vocabulary, positions, _] = sizes.map(|(_, n)| n as f64);
        let parameters = self.num_layers as f64 * 12.0 * dim * dim + (vocabulary + positions) * dim;
        size::check(("num_layers", self.num_layers), &sizes, parameters)
    }
}

/// Holds every size of a GPT-2-style transformer, concrete and checked.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Gpt2Shape {
    /// Number of tokens.
    pub vocab_size: usize,
    /// Longest sequence, in tokens.
    pub max_seq_len: usize,
    /// Size of the hidden states.
    pub dim: usize,
    /// Number of transformer blocks.
    pub num_layers: usize,
    /// Number of attention heads.
    pub num_heads: usize,
    /// Size of one head.
    pub head_dim: usize,
    /// Width of the feed-forward layer.
    pub ffn_dim: usize,
    /// Whether linear layers and norms have a bias.
    pub bias: bool,
    /// Added to the variance in every norm.
    pub norm_eps: f64,
    /// Probability of dropping an element of the hidden states while training.
    pub dropout: f64,
}

impl Gpt2Shape {
    /// Builds the model under `scope`; its parameters stay empty until they are used.
    pub fn init(&self, scope: &Scope) -> Gpt2 {
        Gpt2::new(self, scope)
    }

    /// Checks that sequences of `length` tokens have positions.
    pub fn check_sequence(&self, length: usize) -> Result<(), ModelError> {
        if length <= self.max_seq_len {
            return Ok(());
        }
        Err(ModelError::SequenceTooLong { length, key: "max_seq_len", limit: self.max_seq_len })
    }

    /// Returns the number of parameters.
    pub fn num_params(&self) -> usize {
        let biases = |count: usize| if self.bias { count } else { 0 };
        let norm = self.dim + biases(self.dim);
        let attention = 4 * (self.dim * self.dim + biases(self.dim));
        let feed_forward = 2 * self.dim * self.ffn_dim + biases(self.ffn_dim + self.dim);
        let layer = attention + feed_forward + 2 * norm;
        (self.vocab_size + self.max_seq_len) * self.dim + self.num_layers * layer + norm
    }

    /// Returns what the blocks keep for the backward pass.
    pub(super) fn activations(&self) -> Transformer {
        Transformer {
            layers: self.num_layers,
            hidden: self.dim,
            statistics: 2,
            // Queries, the result and its row sums; both sides of the activation.
            features: 2 * self.dim + self.num_heads + 2 * self.ffn_dim,
            keys: 2 * self.dim,
            num_kv_heads: self.num_heads,
            vocabulary: self.vocab_size,
        }
    }

    /// Returns the floating-point operations of one token's forward and backward, in sequences of
    /// `sequence_length` tokens.
    ///
    /// Counted as [`Llama3Shape::flops_per_token`](crate::llama3::Llama3Shape::flops_per_token)
    /// does: positions are looked up, the tied token embedding is multiplied as the head.
    pub fn flops_per_token(&self, sequence_length: usize) -> f64 {
        let products = 6.0 * (self.num_params() - self.max_seq_len * self.dim) as f64;
        let heads = (self.num_layers * self.num_heads) as f64;
        products + 6.0 * heads * (2 * self.head_dim) as f64 * sequence_length as f64
    }
}
