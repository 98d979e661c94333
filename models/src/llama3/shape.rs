//! A Llama 3 model in numbers: sizes, parameter counts and floating-point operations.

use dream_trainer::nn::Scope;
use serde::Serialize;

use super::{Flavor, Llama3, Llama3Scaling, RopeScaling};
use crate::activations::Transformer;
use crate::error::{ModelError, divided, positive, positive_number};
use crate::size;

/// Returns the scaling of the published models, which differ in the factor: 8 in Llama 3.1, 32 in
/// Llama 3.2.
const fn scaling(factor: f64) -> RopeScaling {
    RopeScaling::Llama3(Llama3Scaling {
        factor,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    })
}

/// Holds every size of a Llama 3 model, concrete and checked.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Llama3Shape {
    /// Size of the hidden states.
    pub dim: usize,
    /// Number of transformer blocks.
    pub num_layers: usize,
    /// Number of query heads.
    pub num_heads: usize,
    /// Number of key and value heads.
    pub num_kv_heads: usize,
    /// Size of one head.
    pub head_dim: usize,
    /// Width of the feed-forward layer.
    pub ffn_dim: usize,
    /// Number of tokens.
    pub vocab_size: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Stretching of the rotary frequencies.
    pub rope_scaling: Option<RopeScaling>,
    /// Added to the mean square in every norm.
    pub norm_eps: f64,
    /// Whether the output projection is the token embedding.
    pub tied_embeddings: bool,
    /// Whether queries, keys, values and the output of attention have biases.
    pub attention_bias: bool,
    /// Whether the feed-forward layers have biases.
    pub mlp_bias: bool,
    /// Longest sequence, in tokens.
    pub max_seq_len: usize,
}

impl Llama3Shape {
    /// Returns the shape of a published size.
    pub fn flavor(flavor: Flavor) -> Self {
        // dim, layers, heads, key-value heads, feed-forward width, tied.
        let (dim, num_layers, num_heads, num_kv_heads, ffn_dim, tied_embeddings) = match flavor {
            Flavor::Debug => (256, 6, 16, 16, 768, false),
            Flavor::B1 => (2048, 16, 32, 8, 8192, true),
            Flavor::B3 => (3072, 28, 24, 8, 8192, true),
            Flavor::B8 => (4096, 32, 32, 8, 14336, false),
            Flavor::B70 => (8192, 80, 64, 8, 28672, false),
            Flavor::B405 => (16384, 126, 128, 8, 53248, false),
        };
        Self {
            dim,
            num_layers,
            num_heads,
            num_kv_heads,
            head_dim: dim / num_heads,
            ffn_dim,
            vocab_size: if flavor == Flavor::Debug { 2048 } else { 128_256 },
            rope_theta: 500_000.0,
            rope_scaling: Some(match flavor {
                Flavor::B1 | Flavor::B3 => scaling(32.0),
                Flavor::Debug | Flavor::B8 | Flavor::B70 | Flavor::B405 => scaling(8.0),
            }),
            norm_eps: 1e-5,
            tied_embeddings,
            attention_bias: false,
            mlp_bias: false,
            max_seq_len: 131_072,
        }
    }

    /// Checks that the sizes fit each other.
    ///
    /// # Errors
    ///
    /// Fails on a zero, on sizes that do not divide and on numbers out of range, naming both sides.
    pub fn validate(&self) -> Result<(), ModelError> {
        positive("dim", self.dim)?;
        positive("num_layers", self.num_layers)?;
        positive("num_heads", self.num_heads)?;
        positive("head_dim", self.head_dim)?;
        positive("ffn_dim", self.ffn_dim)?;
        positive("vocab_size", self.vocab_size)?;
        positive("max_seq_len", self.max_seq_len)?;
        self.check_size()?;
        divided("num_heads", self.num_heads, "num_kv_heads", self.num_kv_heads)?;
        if !self.head_dim.is_multiple_of(2) {
            let value = self.head_dim as f64;
            let constraint = "even, since rotary positions turn pairs";
            return Err(ModelError::OutOfRange { key: "head_dim", value, constraint });
        }
        positive_number("norm_eps", self.norm_eps)?;
        positive_number("rope_theta", self.rope_theta)?;
        self.rope_scaling.as_ref().map_or(Ok(()), RopeScaling::validate)?;
        self.check_rope()
    }

    /// Refuses what a scaling would divide by zero with.
    fn check_rope(&self) -> Result<(), ModelError> {
        match self.rope_scaling {
            Some(RopeScaling::Dynamic { .. }) if self.head_dim == 2 => {
                Err(ModelError::OutOfRange {
                    key: "head_dim",
                    value: 2.0,
                    constraint: "above 2 with `dynamic` scaling",
                })
            }
            Some(RopeScaling::Yarn(_)) if self.rope_theta <= 1.0 => Err(ModelError::OutOfRange {
                key: "rope_theta",
                value: self.rope_theta,
                constraint: "above 1 with `yarn` scaling",
            }),
            _ => Ok(()),
        }
    }

    fn check_size(&self) -> Result<(), ModelError> {
        let sizes = [
            ("dim", self.dim),
            ("num_heads", self.num_heads),
            ("num_kv_heads", self.num_kv_heads),
            ("head_dim", self.head_dim),
            ("ffn_dim", self.ffn_dim),
            ("vocab_size", self.vocab_size),
        ];
        let [dim, heads, kv_heads, head_dim, ffn, vocabulary] = sizes.map(|(_, n)| n as f64);
        let layer = dim * (2.0 * (heads + kv_heads) * head_dim + 3.0 * ffn + 2.0);
        let ends = if self.tied_embeddings { 1.0 } else { 2.0 } * vocabulary * dim;
        size::check(
            ("num_layers", self.num_layers),
            &sizes,
            self.num_layers as f64 * layer + ends + dim,
        )
    }

    /// Checks that sequences of `length` tokens have positions.
    pub fn check_sequence(&self, length: usize) -> Result<(), ModelError> {
        if length <= self.max_seq_len {
            return Ok(());
        }
        Err(ModelError::SequenceTooLong { length, key: "max_seq_len", limit: self.max_seq_len })
    }

    /// Builds the model under `scope`; its parameters stay empty until they are used.
    pub fn init(&self, scope: &Scope) -> Llama3 {
        Llama3::new(self, scope)
    }

    /// Returns the number of parameters.
    pub fn num_params(&self) -> usize {
        let head = if self.tied_embeddings { 0 } else { self.embedding_params() };
        self.embedding_params() + self.num_layers * self.layer_params() + self.dim + head
    }

    /// Returns the number of parameters of one block.
    pub fn layer_params(&self) -> usize {
        let queries = self.num_heads * self.head_dim;
        let keys = self.num_kv_heads * self.head_dim;
        let attention = 2 * self.dim * (queries + keys);
        let given = |has: bool, count: usize| if has { count } else { 0 };
        let biases = given(self.attention_bias, queries + 2 * keys + self.dim)
            + given(self.mlp_bias, 2 * self.ffn_dim + self.dim);
        attention + 3 * self.dim * self.ffn_dim + 2 * self.dim + biases
    }

    /// Returns the number of parameters of the token embedding.
    pub fn embedding_params(&self) -> usize {
        self.vocab_size * self.dim
    }

    /// Returns the floating-point operations of one token's forward and backward, in sequences of
    /// `sequence_length` tokens.
    ///
    /// It is `6 (N - N_embed) + 6 L H (2 d) s`: parameters that are only looked up cost nothing, a
    /// tied embedding is multiplied as the head and counts; attention is counted in full, causal or
    /// not; recomputation is not counted.
    ///
    /// # References
    ///
    /// `PaLM`: Scaling Language Modeling with Pathways, arXiv:2204.02311, appendix B.
    pub fn flops_per_token(&self, sequence_length: usize) -> f64 {
        let looked_up = if self.tied_embeddings { 0 } else { self.embedding_params() };
        let products = 6.0 * (self.num_params() - looked_up) as f64;
        let heads = (self.num_layers * self.num_heads) as f64;
        products + 6.0 * heads * (2 * self.head_dim) as f64 * sequence_length as f64
    }
}

impl Llama3Shape {
    /// Returns what the blocks keep for the backward pass.
    pub(super) fn activations(&self) -> Transformer {
        let (queries, keys) = (self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim);
        Transformer {
            layers: self.num_layers,
            hidden: self.dim,
            statistics: 1,
            // Queries, the result and its row sums; gate, up and their product.
            features: 2 * queries + self.num_heads + 3 * self.ffn_dim,
            keys: 2 * keys,
            num_kv_heads: self.num_kv_heads,
            vocabulary: self.vocab_size,
        }
    }
}
