//! The Llama 3 module.
//!
//! Legend of shapes: `b` batch, `s` sequence, `h` hidden (`dim`), `v` vocabulary.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};
use dream_trainer::fsdp::Unit;
use dream_trainer::kernels::{AttentionOptions, RopePositions};
use dream_trainer::nn::{
    Embedding, EmbeddingConfig, Initializer, Linear, LinearConfig, RmsNorm, Scope,
};

use super::block::norm;
use super::{BlockContext, Llama3Shape, RopeCache, TransformerBlock};
use crate::HeadWeight;

/// Says where the tokens of a batch stand and which of them see each other.
#[derive(Debug, Clone)]
pub struct TokenLayout {
    /// Position of each token. Those given per token must lie below the shape's `max_seq_len`.
    pub positions: RopePositions,
    /// Document of each token, `[b, s]`; attention stays within a document. One document per
    /// sequence by default.
    pub documents: Option<Tensor<2, Int>>,
}

impl Default for TokenLayout {
    fn default() -> Self {
        Self { positions: RopePositions::Offset(0), documents: None }
    }
}

/// Decoder-only transformer. A pipeline stage holds some layers and may lack the ends.
#[derive(Module, Debug)]
pub struct Llama3 {
    /// Token embedding, `[v, h]`.
    pub tok_embeddings: Option<Unit<Embedding>>,
    /// Transformer blocks.
    pub layers: Vec<Unit<TransformerBlock>>,
    /// Norm before the head.
    pub norm: Option<RmsNorm>,
    /// Output projection, `[h, v]`; absent where it is the token embedding.
    pub output: Option<Unit<Linear>>,
    #[module(skip)]
    shape: Llama3Shape,
    #[module(skip)]
    rope: RopeCache,
}

impl Llama3 {
    pub(crate) fn new(shape: &Llama3Shape, scope: &Scope) -> Self {
        let layers = scope.child("layers");
        let head = Initializer::TruncatedNormal { std: (shape.dim as f64).powf(-0.5), cut: 3.0 };
        // A tied table starts as a head: standard normal vectors would make logits of deviation
        // sqrt(dim).
        let lookup = if shape.tied_embeddings { head } else { Initializer::Normal { std: 1.0 } };
        let table = EmbeddingConfig::new(shape.vocab_size, shape.dim).with_initializer(lookup);
        let head = LinearConfig::new(shape.dim, shape.vocab_size).with_initializer(head);
        Self {
            tok_embeddings: Some(table.init(&scope.child("tok_embeddings")).into()),
            layers: (0..shape.num_layers)
                .map(|layer| TransformerBlock::new(shape, layer, &layers.child(layer)).into())
                .collect(),
            norm: Some(norm(shape, &scope.child("norm"))),
            output: (!shape.tied_embeddings).then(|| head.init(&scope.child("output")).into()),
            shape: shape.clone(),
            rope: RopeCache::default(),
        }
    }

    /// Returns the sizes of the whole model.
    pub fn shape(&self) -> &Llama3Shape {
        &self.shape
    }

    /// Computes the hidden states after the final norm.
    ///
    /// # Shapes
    ///
    /// `tokens` is `[b, s]`; the result is `[b, s, h]`.
    ///
    /// # Panics
    ///
    /// If this is a stage without embedding or norm.
    pub fn forward(&self, tokens: Tensor<2, Int>, layout: &TokenLayout) -> Tensor<3> {
        let [_, s] = tokens.dims();
        let x = self.embed(tokens);
        let context = self.context(s, layout, &x.device());
        let blocks = self.layers.iter();
        self.finish(blocks.fold(x, |x, unit| {
            let context = context.clone();
            unit.forward(x, move |block, x| block.forward(x, &context))
        }))
    }

    /// Looks up the tokens.
    ///
    /// # Shapes
    ///
    /// `[b, s]` to `[b, s, h]`.
    ///
    /// # Panics
    ///
    /// If this is a stage without embedding.
    pub fn embed(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        let unit = self.tok_embeddings.as_ref().expect("the first stage has an embedding");
        unit.forward((), move |table, ()| table.forward(tokens.clone()))
    }

    /// Makes what the blocks need to process sequences of `sequence_length` tokens.
    pub fn context(
        &self,
        sequence_length: usize,
        layout: &TokenLayout,
        device: &Device,
    ) -> BlockContext {
        let positions = match &layout.positions {
            RopePositions::Offset(offset) => offset + sequence_length,
            // The largest position is the length by which Hugging Face stretches.
            RopePositions::PerToken(ids) if self.shape.has_dynamic_rope() => {
                ids.clone().max().into_scalar::<i64>() as usize + 1
            }
            RopePositions::PerToken(_) => self.shape.max_seq_len,
        };
        BlockContext {
            rope: self.rope.table(&self.shape, positions, device),
            positions: layout.positions.clone(),
            attention: AttentionOptions {
                documents: layout.documents.clone(),
                ..AttentionOptions::causal()
            },
        }
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
        if self.shape.tied_embeddings {
            self.tok_embeddings.as_ref().map(|table| HeadWeight::Embedding(table.clone()))
        } else {
            self.output.as_ref().map(|output| HeadWeight::Projection(output.clone()))
        }
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
