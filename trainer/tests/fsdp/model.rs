//! A small model of units, with odd sizes so that shards are uneven or empty.

use burn::module::Module;
use burn::tensor::{Int, Tensor};
use dream_trainer::fsdp::{ActivationCheckpointing, FsdpError, FullyShard, Unit};
use dream_trainer::kernels;
use dream_trainer::nn::{
    Embedding, EmbeddingConfig, Linear, LinearConfig, RmsNorm, RmsNormConfig, Scope,
};

/// Token ids of the model.
pub(crate) const VOCABULARY: usize = 13;

/// A block that adds what two layers make of its norm.
#[derive(Module, Debug)]
pub(crate) struct Block {
    norm: RmsNorm,
    up: Linear,
    down: Linear,
}

impl Block {
    fn new(scope: &Scope) -> Self {
        Self {
            norm: RmsNormConfig::new(6).init(&scope.child("norm")),
            up: LinearConfig::new(6, 10).with_bias(true).init(&scope.child("up")),
            down: LinearConfig::new(10, 6).init(&scope.child("down")),
        }
    }

    fn forward(&self, x: Tensor<3>, scale: f64) -> Tensor<3> {
        let y = self.up.forward(self.norm.forward(x.clone())).tanh();
        x + self.down.forward(y) * scale
    }
}

/// Embedding, blocks, norm and head. The norm is in no unit.
#[derive(Module, Debug)]
pub(crate) struct Model {
    embedding: Unit<Embedding>,
    pub(crate) blocks: Vec<Unit<Block>>,
    norm: RmsNorm,
    head: Unit<Linear>,
}

impl Model {
    pub(crate) fn new(scope: &Scope, blocks: usize) -> Self {
        Self {
            embedding: EmbeddingConfig::new(VOCABULARY, 6).init(&scope.child("embedding")).into(),
            blocks: (0..blocks)
                .map(|i| Block::new(&scope.child("blocks").child(i)).into())
                .collect(),
            norm: RmsNormConfig::new(6).init(&scope.child("norm")),
            head: LinearConfig::new(6, VOCABULARY).init(&scope.child("head")).into(),
        }
    }

    pub(crate) fn checkpointed(mut self, mode: ActivationCheckpointing) -> Result<Self, FsdpError> {
        self.blocks = mode.apply(self.blocks)?;
        Ok(self)
    }

    pub(crate) fn sharded(mut self, fsdp: &FullyShard) -> Result<Self, FsdpError> {
        self.embedding = fsdp.shard(self.embedding)?;
        self.blocks = fsdp.shard_each(self.blocks)?;
        self.head = fsdp.shard(self.head)?;
        Ok(fsdp.shard_root(self))
    }

    /// Sums the losses of the next tokens.
    pub(crate) fn loss(&self, ids: Tensor<2, Int>, labels: Tensor<2, Int>) -> Tensor<1> {
        let x = self.embedding.forward((), move |embedding, ()| embedding.forward(ids.clone()));
        let block = |x, unit: &Unit<Block>| unit.forward(x, |block, x| block.forward(x, 0.5));
        let x = self.norm.forward(self.blocks.iter().fold(x, block));
        self.head.forward(x, move |head, x| {
            let logits = head.forward(x);
            let [b, s, v] = logits.dims();
            kernels::cross_entropy(logits.reshape([b * s, v]), labels.clone().reshape([b * s]))
        })
    }
}
