//! Estimates of what operations hold for the backward pass of a microbatch.
//!
//! They count what the trainer's fused operations keep, in `f32`: the input of each norm with its
//! statistics, the input of each product, queries, keys, values, the attention's result with a number
//! per head, both inputs of the gate, and the gradients that the fused head computes with its loss.
//!
//! # References
//!
//! Korthikanti et al., Reducing Activation Recomputation in Large Transformer Models,
//! arXiv:2205.05198, section 4, for the terms; ours differ by what the kernels fuse.

use dream_trainer::fsdp::ActivationCheckpointing;
use dream_trainer::mesh::Axis;
use dream_trainer::tensor_parallel::TensorParallelOptions;
use dream_trainer::train::RunPlan;

/// A microbatch of one rank and how it is split.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Microbatch {
    /// Sequences.
    pub(crate) sequences: usize,
    /// Tokens of all sequences.
    pub(crate) tokens: usize,
    /// Ranks along `tp`.
    pub(crate) tp: usize,
    options: TensorParallelOptions,
    checkpointing: ActivationCheckpointing,
}

impl Microbatch {
    /// Reads the microbatch of a plan.
    pub(crate) fn of(plan: &RunPlan) -> Self {
        Self {
            sequences: plan.training.micro_batch_size,
            tokens: plan.training.micro_batch_size * plan.training.sequence_length,
            tp: plan.mesh.size(Axis::Tp),
            options: plan.tensor_parallel,
            checkpointing: plan.activation_checkpointing,
        }
    }

    /// Returns the tokens between the split products.
    fn local_tokens(&self) -> usize {
        if self.options.sequence_parallel { self.tokens / self.tp } else { self.tokens }
    }

    /// Returns the tokens of what enters a split product, as it is kept.
    fn entering_tokens(&self) -> usize {
        // The overlapped products keep the own part and gather again.
        if self.options.overlap { self.local_tokens() } else { self.tokens }
    }
}

/// What one token makes a decoder-only transformer keep, in numbers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Transformer {
    /// Blocks.
    pub(crate) layers: usize,
    /// Size of the hidden states.
    pub(crate) hidden: usize,
    /// Statistics of a norm.
    pub(crate) statistics: usize,
    /// Numbers of a block that tensor parallelism splits by features.
    pub(crate) features: usize,
    /// Numbers of its keys and values, and of the heads into which these split at most.
    pub(crate) keys: usize,
    pub(crate) num_kv_heads: usize,
    /// Size of the vocabulary.
    pub(crate) vocabulary: usize,
}

impl Transformer {
    /// Returns the bytes, or nothing where what is kept is chosen operation by operation.
    pub(crate) fn bytes(&self, batch: &Microbatch) -> Option<u64> {
        let input = batch.local_tokens() * self.hidden;
        let norm = batch.local_tokens() * (self.hidden + self.statistics);
        let entering = batch.entering_tokens() * self.hidden;
        let features = batch.tokens * self.features / batch.tp;
        let keys = batch.tokens * self.keys / batch.tp.min(self.num_kv_heads);
        let block = 2 * (norm + entering) + features + keys;
        let ends = norm + self.head(batch);
        let again = match batch.checkpointing {
            ActivationCheckpointing::None => 0,
            ActivationCheckpointing::Full => self.layers,
            ActivationCheckpointing::EveryNth(n) => self.layers / n.max(1),
            ActivationCheckpointing::Selective => return None,
        };
        let kept = (self.layers - again) * block + again * input;
        // Either everything when the loss is there, or one block that is made again.
        let inside = if again > 0 { block - input } else { 0 };
        Some(4 * (kept + ends.max(inside)) as u64)
    }

    fn head(&self, batch: &Microbatch) -> usize {
        let hidden = batch.tokens * self.hidden;
        if batch.tp > 1 && !batch.options.loss_parallel {
            return hidden + batch.tokens * (self.vocabulary + 1);
        }
        hidden + self.vocabulary.div_ceil(batch.tp) * self.hidden
    }
}
