//! Attention composed of tensor operations, a block of queries at a time, as one step of the tape.
//!
//! Scores exist for one block only, and keys that no query of a block may see are left out, so that memory grows with the
//! sequence and not with its square. Backward computes a block's scores again from the log-sum-exps that forward kept.

use burn::tensor::Tensor;

use super::options::AttentionOptions;
use super::reference;
use crate::backend::Erased;
use crate::kernels::fused::{Kernel, apply};
use crate::kernels::half_precision::widened;

/// Scores that are held at a time.
const SCORES: usize = 64 << 20;

/// Fewest queries of a block: below this, products lose their speed.
const FEWEST_QUERIES: usize = 64;

/// Attends on any backend.
pub(super) fn attention(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    options: &AttentionOptions,
) -> Tensor<4> {
    let inputs = [q, k, v].map(Erased::new);
    apply(inputs, ComposedAttention { options: options.clone() })
}

/// Returns the output and the log-sum-exp of each query's scores, `[batch, heads, queries]`.
pub(super) fn forward(
    q: &Tensor<4>,
    k: &Tensor<4>,
    v: &Tensor<4>,
    options: &AttentionOptions,
) -> (Tensor<4>, Tensor<3>) {
    let blocks = blocks(q.dims(), k.dims(), options);
    let results = blocks.into_iter().map(|block| {
        let [k, v] = [k, v].map(|x| block.keys_of(x));
        reference::forward(block.queries_of(q), k, v, &block.options(options))
    });
    let (outputs, log_totals): (Vec<_>, Vec<_>) = results.unzip();
    (Tensor::cat(outputs, 1), Tensor::cat(log_totals, 2))
}

/// Returns the gradients of queries, keys and values, given what forward returned.
pub(super) fn backward(
    [q, k, v]: [Tensor<4>; 3],
    output: &Tensor<4>,
    log_totals: &Tensor<3>,
    grad: &Tensor<4>,
    options: &AttentionOptions,
) -> [Tensor<4>; 3] {
    let mut dq = Vec::new();
    let [mut dk, mut dv] = [&k, &v].map(|x| widened(x.zeros_like()));
    for block in blocks(q.dims(), k.dims(), options) {
        let inputs = [block.queries_of(&q), block.keys_of(&k), block.keys_of(&v)];
        let log_totals = log_totals.clone().narrow(2, block.first, block.count);
        let [output, grad] = [output, grad].map(|x| block.queries_of(x));
        let options = block.options(options);
        let [of_q, of_k, of_v] = reference::backward(inputs, output, log_totals, grad, &options);
        dq.push(of_q);
        [dk, dv] = [(dk, of_k), (dv, of_v)].map(|(sum, part)| block.add_to(sum, part));
    }
    let dtype = q.dtype();
    [Tensor::cat(dq, 1), dk.cast(dtype), dv.cast(dtype)]
}

/// Some queries, and the keys that they may see.
struct Block {
    first: usize,
    count: usize,
    first_key: usize,
    keys: usize,
}

impl Block {
    fn queries_of(&self, x: &Tensor<4>) -> Tensor<4> {
        x.clone().narrow(1, self.first, self.count)
    }

    fn keys_of(&self, x: &Tensor<4>) -> Tensor<4> {
        x.clone().narrow(1, self.first_key, self.keys)
    }

    /// Adds the gradient of the block's keys to that of all.
    fn add_to(&self, sum: Tensor<4>, part: Tensor<4>) -> Tensor<4> {
        let [batch, _, heads, head_dim] = sum.dims();
        let place = [0..batch, self.first_key..self.first_key + self.keys, 0..heads, 0..head_dim];
        let known = sum.clone().slice(place.clone());
        sum.slice_assign(place, known + widened(part))
    }

    fn options(&self, whole: &AttentionOptions) -> AttentionOptions {
        let of_keys = whole.key_documents.as_ref().or(whole.documents.as_ref());
        AttentionOptions {
            documents: whole.documents.clone().map(|ids| ids.narrow(1, self.first, self.count)),
            key_documents: of_keys.map(|ids| ids.clone().narrow(1, self.first_key, self.keys)),
            query_offset: whole.query_offset + self.first,
            key_offset: whole.key_offset + self.first_key,
            ..whole.clone()
        }
    }
}

/// Cuts the queries into blocks. A block that sees no key keeps one, which its mask hides.
fn blocks(q: [usize; 4], k: [usize; 4], options: &AttentionOptions) -> Vec<Block> {
    let ([batch, queries, heads, _], keys) = (q, k[1]);
    let count = (SCORES / (batch * heads * keys).max(1)).max(FEWEST_QUERIES).min(queries.max(1));
    let firsts = (0..queries.max(1)).step_by(count);
    let block = |first: usize| {
        let count = count.min(queries - first);
        // Positions of the block's queries.
        let (low, high) = (options.query_offset + first, options.query_offset + first + count);
        let reach = options.window.unwrap_or(usize::MAX).saturating_sub(1);
        let begin = low.saturating_sub(reach).saturating_sub(options.key_offset);
        let end = if options.causal { high } else { high.saturating_add(reach) };
        let end = end.saturating_sub(options.key_offset).clamp(1.min(keys), keys);
        let first_key = begin.min(end.saturating_sub(1));
        Block { first, count, first_key, keys: end - first_key }
    };
    firsts.map(block).collect()
}

#[derive(Debug, Clone)]
struct ComposedAttention {
    options: AttentionOptions,
}

impl Kernel<3, Erased> for ComposedAttention {
    /// The output, and the log-sum-exps.
    type Saved = (Erased, Erased);

    fn reads(&self, _needs: [bool; 3]) -> [bool; 3] {
        [true; 3]
    }

    fn forward(&self, inputs: [Erased; 3], _needs: [bool; 3]) -> (Erased, Self::Saved) {
        let [q, k, v] = inputs.map(Erased::into_tensor);
        let (output, log_totals) = forward(&q, &k, &v, &self.options);
        let output = Erased::new(output);
        (output.clone(), (output, Erased::new(log_totals)))
    }

    fn backward(
        &self,
        inputs: [Option<Erased>; 3],
        (output, log_totals): Self::Saved,
        grad: Erased,
        _needs: [bool; 3],
    ) -> [Option<Erased>; 3] {
        let inputs = inputs.map(|input| input.expect("all inputs were kept").into_tensor());
        let (output, grad) = (output.into_tensor(), grad.into_tensor());
        backward(inputs, &output, &log_totals.into_tensor(), &grad, &self.options)
            .map(|gradient| Some(Erased::new(gradient)))
    }
}
