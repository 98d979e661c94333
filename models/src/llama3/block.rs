//! A block of the Llama 3 module.
//!
//! Legend of shapes: `b` batch, `s` sequence, `h` hidden (`dim`), `n` query heads, `k` key-value
//! heads, `d` head size, `f` feed-forward width.

use burn::module::Module;
use burn::tensor::Tensor;
use dream_trainer::kernels::{self, AttentionOptions, RopePositions, RopeTable};
use dream_trainer::nn::{
    Boundary, Initializer, Linear, LinearConfig, RmsNorm, RmsNormConfig, Scope,
};

use super::Llama3Shape;

/// Standard deviation of the linear layers.
///
/// Torch's truncated normal cuts at an absolute 2 by default, 100 of these deviations away: a plain
/// normal is the same.
const LINEAR_STD: f64 = 0.02;

/// Holds what every block needs beside the hidden states; made once per forward.
#[derive(Debug, Clone)]
pub struct BlockContext {
    /// Cosines and sines of the rotary positions.
    pub rope: RopeTable,
    /// Position of each token.
    pub positions: RopePositions,
    /// Which keys each query sees.
    pub attention: AttentionOptions,
}

/// Attention and feed-forward, each on the norm of its input and added to it.
#[derive(Module, Debug)]
pub struct TransformerBlock {
    /// Norm before attention.
    pub attention_norm: RmsNorm,
    /// Grouped-query attention.
    pub attention: Attention,
    /// Norm before the feed-forward layer.
    pub ffn_norm: RmsNorm,
    /// Gated feed-forward layer.
    pub feed_forward: FeedForward,
}

impl TransformerBlock {
    pub(crate) fn new(shape: &Llama3Shape, layer: usize, scope: &Scope) -> Self {
        // Both sub-layers of a block add to the residual stream: its variance stays flat over
        // depth.
        let std = LINEAR_STD / (2.0 * (layer + 1) as f64).sqrt();
        Self {
            attention_norm: norm(shape, &scope.child("attention_norm")),
            attention: Attention::new(shape, std, &scope.child("attention")),
            ffn_norm: norm(shape, &scope.child("ffn_norm")),
            feed_forward: FeedForward::new(shape, std, &scope.child("feed_forward")),
        }
    }

    /// Processes hidden states, `[b, s, h]` to the same.
    pub fn forward(&self, x: Tensor<3>, context: &BlockContext) -> Tensor<3> {
        let attended = self.attention.forward(self.attention_norm.forward(x.clone()), context);
        let [x, h] = self.ffn_norm.forward_sum(x, attended);
        x + self.feed_forward.forward(h)
    }
}

/// Causal self-attention with rotary positions, in which several query heads share one key-value
/// head.
///
/// # References
///
/// GQA, arXiv:2305.13245.
#[derive(Module, Debug)]
pub struct Attention {
    /// Queries, `[h, n d]`.
    pub wq: Linear,
    /// Keys, `[h, k d]`.
    pub wk: Linear,
    /// Values, `[h, k d]`.
    pub wv: Linear,
    /// Back to the hidden size, `[n d, h]`.
    pub wo: Linear,
    #[module(skip)]
    head_dim: usize,
    #[module(skip)]
    boundary: Boundary,
}

impl Attention {
    fn new(shape: &Llama3Shape, output_std: f64, scope: &Scope) -> Self {
        let (queries, keys) =
            (shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim);
        let linear = |inputs, outputs, std, name| {
            linear([inputs, outputs], std, shape.attention_bias, &scope.child(name))
        };
        Self {
            wq: linear(shape.dim, queries, LINEAR_STD, "wq"),
            wk: linear(shape.dim, keys, LINEAR_STD, "wk"),
            wv: linear(shape.dim, keys, LINEAR_STD, "wv"),
            wo: linear(queries, shape.dim, output_std, "wo"),
            head_dim: shape.head_dim,
            boundary: Boundary::new(scope),
        }
    }

    /// Attends, `[b, s, h]` to the same.
    pub fn forward(&self, x: Tensor<3>, context: &BlockContext) -> Tensor<3> {
        let [q, k, v] =
            self.boundary.project(x, [&self.wq, &self.wk, &self.wv]).map(|y| self.heads(y));
        let q = kernels::rope(q, &context.rope, &context.positions);
        let k = kernels::rope(k, &context.rope, &context.positions);
        let y = kernels::attention(q, k, v, &context.attention);
        let [b, s, n, d] = y.dims();
        self.wo.forward(y.reshape([b, s, n * d]))
    }

    /// Splits `[b, s, n d]` into heads. Their number is read off the tensor, which may hold a part
    /// of them.
    fn heads(&self, x: Tensor<3>) -> Tensor<4> {
        let [b, s, width] = x.dims();
        x.reshape([b, s, width / self.head_dim, self.head_dim])
    }
}

/// Gated feed-forward layer, `w2 (silu(w1 x) * w3 x)`.
///
/// # References
///
/// GLU Variants Improve Transformer, arXiv:2002.05202.
#[derive(Module, Debug)]
pub struct FeedForward {
    /// Gate, `[h, f]`.
    pub w1: Linear,
    /// Back to the hidden size, `[f, h]`.
    pub w2: Linear,
    /// Up, `[h, f]`.
    pub w3: Linear,
    #[module(skip)]
    boundary: Boundary,
}

impl FeedForward {
    fn new(shape: &Llama3Shape, output_std: f64, scope: &Scope) -> Self {
        let linear = |inputs, outputs, std, name| {
            linear([inputs, outputs], std, shape.mlp_bias, &scope.child(name))
        };
        Self {
            w1: linear(shape.dim, shape.ffn_dim, LINEAR_STD, "w1"),
            w2: linear(shape.ffn_dim, shape.dim, output_std, "w2"),
            w3: linear(shape.dim, shape.ffn_dim, output_std, "w3"),
            boundary: Boundary::new(scope),
        }
    }

    /// Applies the layer, `[b, s, h]` to the same.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let [gate, up] = self.boundary.project(x, [&self.w1, &self.w3]);
        self.w2.forward(kernels::swiglu(gate, up))
    }
}

pub(crate) fn norm(shape: &Llama3Shape, scope: &Scope) -> RmsNorm {
    RmsNormConfig::new(shape.dim).with_epsilon(shape.norm_eps).init(scope)
}

/// Makes a layer, whose bias starts at zero.
fn linear([inputs, outputs]: [usize; 2], std: f64, bias: bool, scope: &Scope) -> Linear {
    let config = LinearConfig::new(inputs, outputs).with_bias(bias);
    config.with_initializer(Initializer::Normal { std }).init(scope)
}
