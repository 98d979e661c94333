//! Loss parallelism: output projection and cross-entropy over parts of the vocabulary, in three
//! small all-reduces.

use std::fmt;
use std::ops::Range;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::{DType, Int, Shape, Tensor, TensorData};

use crate::comm::differentiable::raise;
use crate::comm::{Bridge, Erased, ProcessGroup, ReduceOp};
use crate::kernels::{self, IGNORE_INDEX};
use crate::mesh::shard_range;
use crate::nn::HeadTable;

/// Logits held at a time.
const BLOCK: usize = 1024 * 1024;

/// Fewest tokens of a block: below this, the products lose their speed.
const FEWEST_TOKENS: usize = 128;

/// Projects hidden states to the logits of the own part of the vocabulary and sums the
/// cross-entropy over the whole of it.
///
/// Labels that are [`IGNORE_INDEX`] count neither in the loss nor in any gradient.
///
/// # Shapes
///
/// `hidden` is `[tokens, h]`, the same on every rank; `weight` holds the columns (or, tied, the
/// rows) of this rank's part of `vocabulary`; `labels` is `[tokens]`; the result is `[1]`, the same
/// on every rank. The gradient of `hidden` is a term per rank.
///
/// # Communication
///
/// Three all-reduces of one number per token: the largest logit, the sum of exponentials, the logit
/// of the label. Logits are made for a block of tokens at a time, and made again for the gradient
/// where there is more than one block.
///
/// # Panics
///
/// When a label lies outside the vocabulary, or dimensions do not agree; with a [`CommError`](crate::comm::CommError)
/// as payload when communication fails.
///
/// # References
///
/// Megatron-LM, arXiv:1909.08053, section 3, last paragraph on the output embedding.
pub fn vocab_parallel_cross_entropy(
    hidden: Tensor<2>,
    weight: HeadTable,
    labels: Tensor<1, Int>,
    vocabulary: usize,
    group: &ProcessGroup,
) -> Tensor<1> {
    let tied = matches!(weight, HeadTable::Embedding(_));
    let (HeadTable::Projection(stored) | HeadTable::Embedding(stored)) = weight;
    let tracked = hidden.is_tracked() || stored.is_tracked();
    let inner = stored.clone().inner();
    let projection = if tied { inner.transpose() } else { inner };
    let own = shard_range(vocabulary, group.size(), group.rank());
    let head = Head { x: hidden.clone().inner(), projection, first: own.start, labels };
    let counted = head.counted(vocabulary);
    let mut blocks = head.blocks();
    let statistics = head.statistics(&mut blocks).reduce(group);
    let loss = statistics.loss(&counted);
    if !tracked {
        return Tensor::from_data(TensorData::new(vec![loss], [1]), &hidden.device());
    }
    let (dx, dw) = head.gradients(blocks, &statistics);
    let dtypes = [hidden.dtype(), stored.dtype()];
    let given = Given { loss, dx, dw: if tied { dw.transpose() } else { dw }, dtypes };
    kernels::keep_tensors([&given.dx, &given.dw]);
    Tensor::from_dispatch(<Dispatch as GivenOps>::given(
        hidden.into_dispatch(),
        stored.into_dispatch(),
        given,
    ))
}

/// One block of tokens; its logits are kept where it is the only one.
struct TokenBlock {
    tokens: Range<usize>,
    logits: Option<Tensor<2>>,
}

/// Per token: the largest logit, the sum of exponentials above it, the logit of the label.
#[derive(Default)]
struct Statistics {
    max: Vec<f32>,
    sum: Vec<f32>,
    target: Vec<f32>,
}

impl Statistics {
    /// Combines the parts of all ranks: three all-reduces.
    fn reduce(self, group: &ProcessGroup) -> Self {
        let all_reduce = |values: Vec<f32>, op| {
            let len = values.len();
            match group.all_reduce(TensorData::new(values, [len]), op) {
                Ok(data) => data.iter::<f32>().collect::<Vec<_>>(),
                Err(error) => raise(error),
            }
        };
        let max = all_reduce(self.max.clone(), ReduceOp::Max);
        let scaled = self
            .sum
            .iter()
            .zip(self.max.iter().zip(&max))
            .map(|(sum, (local, max))| sum * (local - max).exp());
        let sum = all_reduce(scaled.collect(), ReduceOp::Sum);
        Self { max, sum, target: all_reduce(self.target, ReduceOp::Sum) }
    }

    fn log_total(&self, token: usize) -> f64 {
        f64::from(self.max[token]) + f64::from(self.sum[token]).ln()
    }

    fn loss(&self, counted: &[bool]) -> f32 {
        let counted = counted.iter().enumerate().filter(|(_, counts)| **counts);
        counted.map(|(token, _)| self.log_total(token) - f64::from(self.target[token])).sum::<f64>()
            as f32
    }
}

/// The own part of the head, outside autodiff.
struct Head {
    x: Tensor<2>,
    /// `[h, own part]`.
    projection: Tensor<2>,
    /// Id of the first column.
    first: usize,
    /// Ids of the whole vocabulary.
    labels: Tensor<1, Int>,
}

impl Head {
    /// Tells which labels count.
    fn counted(&self, vocabulary: usize) -> Vec<bool> {
        let known = 0..vocabulary as i64;
        let counts = |label: i64| {
            assert!(
                label == IGNORE_INDEX || known.contains(&label),
                "labels must lie within the vocabulary or be the ignore index"
            );
            label != IGNORE_INDEX
        };
        self.labels.clone().into_data().iter::<i64>().map(counts).collect()
    }

    fn blocks(&self) -> Vec<TokenBlock> {
        let ([tokens, _], [_, columns]) = (self.x.dims(), self.projection.dims());
        let size = (BLOCK / columns.max(1)).max(FEWEST_TOKENS);
        let block =
            |first: usize| TokenBlock { tokens: first..tokens.min(first + size), logits: None };
        (0..tokens).step_by(size).map(block).collect()
    }

    fn rows(&self, tokens: &Range<usize>) -> Tensor<2> {
        self.x.clone().narrow(0, tokens.start, tokens.len())
    }

    fn labels(&self, tokens: &Range<usize>) -> Tensor<1, Int> {
        self.labels.clone().narrow(0, tokens.start, tokens.len())
    }

    fn logits(&self, tokens: &Range<usize>) -> Tensor<2> {
        kernels::linear_f32(self.rows(tokens), self.projection.clone())
    }

    fn statistics(&self, blocks: &mut [TokenBlock]) -> Statistics {
        let mut all = Statistics::default();
        let only = blocks.len() == 1;
        for block in blocks {
            let logits = self.logits(&block.tokens);
            let max = kernels::shard_maxima(&logits);
            let labels = self.labels(&block.tokens);
            let (sum, target) = kernels::shard_sums(&logits, &labels, &max, self.first);
            for (values, tensor) in
                [(&mut all.max, max), (&mut all.sum, sum), (&mut all.target, target)]
            {
                values.extend(tensor.into_data().iter::<f32>());
            }
            block.logits = only.then_some(logits);
        }
        all
    }

    /// Returns the gradients of the hidden states and of the projection, for a loss gradient of
    /// one, in `f32`.
    fn gradients(
        &self,
        blocks: Vec<TokenBlock>,
        statistics: &Statistics,
    ) -> (Tensor<2>, Tensor<2>) {
        let (mut dx, mut dw) = (Vec::new(), None);
        for TokenBlock { tokens, logits } in blocks {
            let logits = logits.unwrap_or_else(|| self.logits(&tokens));
            let totals = tokens.clone().map(|token| statistics.log_total(token) as f32).collect();
            let totals = TensorData::new::<f32, _>(totals, [tokens.len()]);
            let totals = Tensor::from_data(totals, &self.x.device());
            let labels = self.labels(&tokens);
            let gradient = kernels::shard_gradients(logits, &labels, &totals, self.first, 1.0);
            dx.push(kernels::linear_f32(gradient.clone(), self.projection.clone().transpose()));
            let term = kernels::linear_f32(self.rows(&tokens).transpose(), gradient);
            dw = Some(match dw {
                Some(sum) => sum + term,
                None => term,
            });
        }
        let dw = dw.unwrap_or_else(|| self.projection.zeros_like().cast(DType::F32));
        (Tensor::cat(dx, 0), dw)
    }
}

/// A loss whose gradients were computed with it.
#[derive(Clone)]
struct Given {
    loss: f32,
    dx: Tensor<2>,
    dw: Tensor<2>,
    /// Element types that the gradients take once they have their factor, which may be what keeps
    /// them within the range of `f16`.
    dtypes: [DType; 2],
}

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Given").field("loss", &self.loss).finish_non_exhaustive()
    }
}

/// Records a scalar of two tensors whose gradients are known.
#[backend_extension(Flex, Cube: cfg(feature = "cube"), Autodiff)]
trait GivenOps: Backend {
    fn given(x: FloatTensor<Self>, weight: FloatTensor<Self>, given: Given) -> FloatTensor<Self>;
}

impl<B: Bridge> GivenOps for B {
    fn given(x: FloatTensor<Self>, _: FloatTensor<Self>, given: Given) -> FloatTensor<Self> {
        B::float_from_data(TensorData::new(vec![given.loss], [1]), &x.device())
    }
}

#[derive(Debug)]
struct GivenBackward;

impl<B: GivenOps + Bridge> Backward<B, 2> for GivenBackward {
    type State = Given;

    fn backward(self, ops: Ops<Given, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let factor = B::float_reshape(grads.consume::<B>(&ops.node), Shape::from([1, 1]));
        let Given { dx, dw, dtypes, .. } = ops.state;
        for ((parent, gradient), dtype) in ops.parents.into_iter().zip([dx, dw]).zip(dtypes) {
            if let Some(parent) = parent {
                let gradient = B::float_mul(B::down(Erased::new(gradient)), factor.clone());
                let gradient = match dtype {
                    DType::F32 => gradient,
                    narrower => B::float_cast(gradient, narrower.into()),
                };
                grads.register::<B>(parent.id, gradient);
            }
        }
    }
}

impl<B: GivenOps + Bridge, C: CheckpointStrategy> GivenOps for Autodiff<B, C> {
    fn given(x: FloatTensor<Self>, weight: FloatTensor<Self>, given: Given) -> FloatTensor<Self> {
        match GivenBackward.prepare::<C>([x.node(), weight.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(
                given.clone(),
                B::given(x.into_primitive(), weight.into_primitive(), given),
            ),
            OpsKind::UnTracked(prep) => {
                prep.finish(B::given(x.into_primitive(), weight.into_primitive(), given))
            }
        }
    }
}
