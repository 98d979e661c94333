//! Estimates of what operations hold for the backward pass of a microbatch.
//!
//! They count what the trainer's fused operations keep, in `f32`: the input of each norm with its
//! statistics, the input of each product, queries, keys, values, the attention's result with a number
//! per head, both inputs of the gate, and the gradients that the fused head computes with its loss.
//! The products are taken in 128 bits, in which they fit for every model that may be described.
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
    tokens: u128,
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
            tokens: plan.training.micro_batch_size as u128 * plan.training.sequence_length as u128,
            tp: plan.mesh.size(Axis::Tp),
            options: plan.tensor_parallel,
            checkpointing: plan.activation_checkpointing,
        }
    }

    /// Returns the tokens between the split products.
    fn local_tokens(&self) -> u128 {
        if self.options.sequence_parallel { self.tokens / self.tp as u128 } else { self.tokens }
    }

    /// Returns the tokens of what enters a split product, as it is kept.
    fn entering_tokens(&self) -> u128 {
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
        let [layers, hidden, statistics, features, keys] =
            [self.layers, self.hidden, self.statistics, self.features, self.keys]
                .map(|size| size as u128);
        let input = batch.local_tokens() * hidden;
        let norm = batch.local_tokens() * (hidden + statistics);
        let entering = batch.entering_tokens() * hidden;
        let features = batch.tokens * features / batch.tp as u128;
        let keys = batch.tokens * keys / batch.tp.min(self.num_kv_heads) as u128;
        let block = 2 * (norm + entering) + features + keys;
        let ends = norm + self.head(batch);
        let again = match batch.checkpointing {
            ActivationCheckpointing::None => 0,
            ActivationCheckpointing::Full => layers,
            ActivationCheckpointing::EveryNth(n) => layers / n.max(1) as u128,
            ActivationCheckpointing::Selective => return None,
        };
        let kept = (layers - again) * block + again * input;
        // Either everything when the loss is there, or one block that is made again.
        let inside = if again > 0 { block - input } else { 0 };
        Some(saturated(4 * (kept + ends.max(inside))))
    }

    fn head(&self, batch: &Microbatch) -> u128 {
        let [hidden, vocabulary] = [self.hidden, self.vocabulary].map(|size| size as u128);
        if batch.tp > 1 && !batch.options.loss_parallel {
            return batch.tokens * (hidden + vocabulary + 1);
        }
        batch.tokens * hidden + vocabulary.div_ceil(batch.tp as u128) * hidden
    }
}

/// Returns a number of bytes, or the largest there is where it does not fit.
pub(crate) fn saturated(bytes: u128) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
