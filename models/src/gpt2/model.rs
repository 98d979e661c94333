//! The GPT-2-style module.
//!
//! Legend of shapes: `b` batch, `s` sequence, `h` hidden (`dim`), `v` vocabulary.

use burn::module::Module;
use burn::tensor::{Int, Tensor};
use dream_trainer::fsdp::Unit;
use dream_trainer::nn::{Draw, Dropout, Embedding, EmbeddingConfig, Initializer, LayerNorm, Scope};

use super::block::norm;
use super::{Gpt2Shape, TransformerBlock};
use crate::HeadWeight;

/// Decoder-only transformer with learned positions. A pipeline stage holds some layers and may lack
/// the ends.
#[derive(Module, Debug)]
pub struct Gpt2 {
    /// Token embedding and output projection, `[v, h]`.
    pub tok_embeddings: Option<Unit<Embedding>>,
    /// Vector of each position, `[max_seq_len, h]`.
    pub pos_embeddings: Option<Unit<Embedding>>,
    /// Transformer blocks.
    pub layers: Vec<Unit<TransformerBlock>>,
    /// Norm before the head.
    pub norm: Option<LayerNorm>,
    #[module(skip)]
    dropout: Dropout,
    #[module(skip)]
    shape: Gpt2Shape,
}

impl Gpt2 {
    pub(crate) fn new(shape: &Gpt2Shape, scope: &Scope) -> Self {
        // The table is the head too, and starts as PyTorch starts a linear layer: the logits'
        // deviation is 1 / sqrt(3).
        let head = Initializer::Uniform { bound: (shape.dim as f64).powf(-0.5) };
        let tokens = EmbeddingConfig::new(shape.vocab_size, shape.dim).with_initializer(head);
        let positions = EmbeddingConfig::new(shape.max_seq_len, shape.dim);
        let layers = scope.child("layers");
        Self {
            tok_embeddings: Some(tokens.init(&scope.child("tok_embeddings")).into()),
            pos_embeddings: Some(positions.init(&scope.child("pos_embeddings")).into()),
            layers: (0..shape.num_layers)
                .map(|layer| TransformerBlock::new(shape, &layers.child(layer)).into())
                .collect(),
            norm: Some(norm(shape, &scope.child("norm"))),
            dropout: Dropout::new(shape.dropout, &scope.child("dropout")),
            shape: shape.clone(),
        }
    }

    /// Returns the sizes of the whole model.
    pub fn shape(&self) -> &Gpt2Shape {
        &self.shape
    }

    /// Computes the hidden states after the final norm; token `i` stands at position `i`.
    ///
    /// # Shapes
    ///
    /// `tokens` is `[b, s]`; the result is `[b, s, h]`.
    ///
    /// # Panics
    ///
    /// If this is a stage without embeddings or norm, or sequences are longer than the positions.
    pub fn forward(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        self.run(tokens, None)
    }

    /// Does what [`Self::forward`] does, with dropout.
    ///
    /// # Panics
    ///
    /// As [`Self::forward`].
    pub fn forward_training(&self, tokens: Tensor<2, Int>, draw: Draw) -> Tensor<3> {
        self.run(tokens, Some(draw))
    }

    fn run(&self, tokens: Tensor<2, Int>, draw: Option<Draw>) -> Tensor<3> {
        let block = |x, unit: &Unit<TransformerBlock>| {
            unit.forward(x, move |block, x| block.forward(x, draw))
        };
        let embedded = self.dropout.forward(self.embed(tokens), draw);
        self.finish(self.layers.iter().fold(embedded, block))
    }

    /// Adds the vectors of tokens and positions.
    ///
    /// # Shapes
    ///
    /// `[b, s]` to `[b, s, h]`.
    ///
    /// # Panics
    ///
    /// If this is a stage without embeddings, or sequences are longer than the positions.
    pub fn embed(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        let [_, s] = tokens.dims();
        let table = self.tok_embeddings.as_ref().expect("the first stage has an embedding");
        let positions = self.pos_embeddings.as_ref().expect("the first stage has positions");
        let places = Tensor::arange(0..s as i64, &tokens.device()).unsqueeze();
        let look_up = |unit: &Unit<Embedding>, ids: Tensor<2, Int>| -> Tensor<3> {
            unit.forward((), move |table, ()| table.forward(ids.clone()))
        };
        look_up(table, tokens) + look_up(positions, places)
    }

    /// Applies the final norm to the last block's output, `[b, s, h]`.
    ///
    /// # Panics
    ///
    /// If this is a stage without norm.
    pub fn finish(&self, x: Tensor<3>) -> Tensor<3> {
        self.norm.as_ref().expect("the last stage has a norm").forward(x)
    }

    /// Returns the weight of the output projection, or `None` for a stage that has none.
    pub fn head_weight(&self) -> Option<HeadWeight> {
        self.tok_embeddings.as_ref().map(|table| HeadWeight::Embedding(table.clone()))
    }

    /// Computes the logits of what [`Self::forward`] returned.
    ///
    /// # Shapes
    ///
    /// `[b, s, h]` to `[b, s, v]`.
    ///
    /// # Panics
    ///
    /// If this is a stage without head.
    pub fn logits(&self, hidden: Tensor<3>) -> Tensor<3> {
        self.head_weight().expect("the last stage has a head").logits(hidden)
    }
}
