//! A block of the GPT-2-style module.
//!
//! Legend of shapes: `b` batch, `s` sequence, `h` hidden (`dim`), `n` heads, `d` head size, `f`
//! feed-forward width.

use burn::module::Module;
use burn::tensor::Tensor;
use dream_trainer::kernels::{self, AttentionOptions};
use dream_trainer::nn::{
    Boundary, Draw, Dropout, LayerNorm, LayerNormConfig, Linear, LinearConfig, Scope,
};

use super::Gpt2Shape;

/// Attention and feed-forward, each on the norm of its input and added to it.
#[derive(Module, Debug)]
pub struct TransformerBlock {
    /// Norm before attention.
    pub attention_norm: LayerNorm,
    /// Multi-head attention.
    pub attention: Attention,
    /// Norm before the feed-forward layer.
    pub ffn_norm: LayerNorm,
    /// Feed-forward layer.
    pub feed_forward: FeedForward,
    #[module(skip)]
    attention_dropout: Dropout,
    #[module(skip)]
    ffn_dropout: Dropout,
}

impl TransformerBlock {
    pub(crate) fn new(shape: &Gpt2Shape, scope: &Scope) -> Self {
        Self {
            attention_norm: norm(shape, &scope.child("attention_norm")),
            attention: Attention::new(shape, &scope.child("attention")),
            ffn_norm: norm(shape, &scope.child("ffn_norm")),
            feed_forward: FeedForward::new(shape, &scope.child("feed_forward")),
            attention_dropout: Dropout::new(shape.dropout, &scope.child("attention_dropout")),
            ffn_dropout: Dropout::new(shape.dropout, &scope.child("ffn_dropout")),
        }
    }

    /// Processes hidden states, `[b, s, h]` to the same; with a draw, as in training.
    pub fn forward(&self, x: Tensor<3>, draw: Option<Draw>) -> Tensor<3> {
        let attended = self.attention.forward(self.attention_norm.forward(x.clone()));
        let attended = self.attention_dropout.forward(attended, draw);
        let [x, h] = self.ffn_norm.forward_sum(x, attended);
        x + self.ffn_dropout.forward(self.feed_forward.forward(h), draw)
    }
}

/// Causal multi-head self-attention.
#[derive(Module, Debug)]
pub struct Attention {
    /// Queries, `[h, n d]`.
    pub wq: Linear,
    /// Keys, `[h, n d]`.
    pub wk: Linear,
    /// Values, `[h, n d]`.
    pub wv: Linear,
    /// Back to the hidden size, `[n d, h]`.
    pub wo: Linear,
    #[module(skip)]
    head_dim: usize,
    #[module(skip)]
    boundary: Boundary,
}

impl Attention {
    fn new(shape: &Gpt2Shape, scope: &Scope) -> Self {
        let square = |name| linear(shape.dim, shape.dim, shape, &scope.child(name));
        Self {
            wq: square("wq"),
            wk: square("wk"),
            wv: square("wv"),
            wo: square("wo"),
            head_dim: shape.head_dim,
            boundary: Boundary::new(scope),
        }
    }

    /// Attends, `[b, s, h]` to the same.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let [q, k, v] =
            self.boundary.project(x, [&self.wq, &self.wk, &self.wv]).map(|y| self.heads(y));
        let y = kernels::attention(q, k, v, &AttentionOptions::causal());
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

/// Feed-forward layer, `w2 gelu(w1 x)`.
#[derive(Module, Debug)]
pub struct FeedForward {
    /// Up, `[h, f]`.
    pub w1: Linear,
    /// Back to the hidden size, `[f, h]`.
    pub w2: Linear,
    #[module(skip)]
    boundary: Boundary,
}

impl FeedForward {
    fn new(shape: &Gpt2Shape, scope: &Scope) -> Self {
        Self {
            w1: linear(shape.dim, shape.ffn_dim, shape, &scope.child("w1")),
            w2: linear(shape.ffn_dim, shape.dim, shape, &scope.child("w2")),
            boundary: Boundary::new(scope),
        }
    }

    /// Applies the layer, `[b, s, h]` to the same.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let [up] = self.boundary.project(x, [&self.w1]);
        self.w2.forward(kernels::gelu(up))
    }
}

pub(crate) fn norm(shape: &Gpt2Shape, scope: &Scope) -> LayerNorm {
    LayerNormConfig::new(shape.dim).with_epsilon(shape.norm_eps).with_bias(shape.bias).init(scope)
}

fn linear(inputs: usize, outputs: usize, shape: &Gpt2Shape, scope: &Scope) -> Linear {
    LinearConfig::new(inputs, outputs).with_bias(shape.bias).init(scope)
}
