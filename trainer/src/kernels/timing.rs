//! Times every operation at the shapes of a Llama, forward and backward, as a training step calls them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use burn::tensor::{DType, Device, Distribution, Int, Tensor, TensorData};
use serde::Serialize;

use super::fused::{JointKernel, apply_erased_joint};
use super::saved::{Keep, Kept};
use super::{
    AdamHyper, AttentionOptions, RopePositions, RopeTable, adamw_step, add_rms_norm, attention,
    embedding, linear, linear_cross_entropy, project, rms_norm, rope, sum_of_squares, swiglu,
};
use crate::backend::Erased;

/// Sizes of a model and of its batch.
#[derive(Debug, Clone, Copy)]
pub struct TimingSizes {
    /// Sequences of a step.
    pub batch: usize,
    /// Tokens of a sequence.
    pub sequence: usize,
    /// Size of the hidden states.
    pub dim: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Number of query heads; divides `dim`.
    pub heads: usize,
    /// Number of key-value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of the feed-forward layer.
    pub ffn: usize,
    /// Size of the vocabulary.
    pub vocabulary: usize,
}

/// The median times of one operation.
#[derive(Debug, Clone, Serialize)]
pub struct Timing {
    /// Which operation, of which layer.
    pub name: String,
    /// How often a step calls it.
    pub per_step: f64,
    /// Seconds of a call.
    pub forward_seconds: f64,
    /// Seconds of its backward pass, zero if it has none.
    pub backward_seconds: f64,
    /// Floating-point operations or bytes of a call.
    pub forward_work: f64,
    /// Floating-point operations or bytes of its backward pass.
    pub backward_work: f64,
    /// What work per second is counted in: `GFLOP/s`, or `GB/s` where memory is the limit.
    pub unit: &'static str,
}

/// Times all operations on a device, in an element type; each figure is the median of `repeats` runs after three others.
///
/// On the CPU they use the calling thread's pool. Passes over parameters are in `f32`. The device is waited for at the end
/// of each direction, so that on a GPU a figure includes the time to start an operation.
pub fn time_operations(
    sizes: &TimingSizes,
    repeats: usize,
    device: &Device,
    dtype: DType,
) -> Vec<Timing> {
    let device = device.clone().inner().autodiff();
    let bench = Bench { sizes: *sizes, repeats, device, dtype };
    let mut all = bench.block();
    all.extend(bench.ends());
    all.extend(bench.updates());
    all
}

struct Bench {
    sizes: TimingSizes,
    repeats: usize,
    device: Device,
    dtype: DType,
}

/// Work of a call and of its backward pass.
#[derive(Debug, Clone, Copy)]
enum Work {
    Flops(usize, usize),
    /// In elements of the type that is timed.
    Elements(usize, usize),
}

impl Work {
    /// A product and the two of its backward pass.
    fn product(rows: usize, inner: usize, columns: usize) -> Self {
        let flops = 2 * rows * inner * columns;
        Self::Flops(flops, 2 * flops)
    }
}

impl Bench {
    fn leaf<const D: usize>(&self, shape: [usize; D]) -> Tensor<D> {
        let values: Tensor<D> =
            Tensor::random(shape, Distribution::Uniform(-1.0, 1.0), &self.device);
        values.cast(self.dtype).detach().require_grad()
    }

    /// The operations of a block.
    fn block(&self) -> Vec<Timing> {
        let TimingSizes { batch, sequence, dim, layers, heads, kv_heads, ffn, .. } = self.sizes;
        let (tokens, head_dim) = (batch * sequence, dim / heads);
        let kv = kv_heads * head_dim;
        let (x, delta, scale) =
            (self.leaf([tokens, dim]), self.leaf([tokens, dim]), self.leaf([dim]));
        let (size, wide) = (tokens * dim, tokens * ffn);
        let weights = [dim, kv, kv].map(|width| self.leaf([dim, width]));
        let of_heads = |count| self.leaf([batch, sequence, count, head_dim]);
        let [q, k, v] = [heads, kv_heads, kv_heads].map(of_heads);
        let (table, positions) = self.rope(head_dim);
        let pairs = batch * heads * sequence * (sequence + 1) / 2;
        let scores = Work::Flops(4 * head_dim * pairs, 10 * head_dim * pairs);
        let [wo, w1, w3] = [dim, ffn, ffn].map(|width| self.leaf([dim, width]));
        let w2 = self.leaf([ffn, dim]);
        let (gate, up) = (self.leaf([tokens, ffn]), self.leaf([tokens, ffn]));
        let layers = layers as f64;
        let shared = |weights: &[Tensor<2>]| -> Vec<Erased> {
            let layers = weights.iter().map(|weight| (weight.clone(), None)).collect();
            project(x.clone(), layers).into_iter().map(Erased::new).collect()
        };
        let rotations = layers * (heads + kv_heads) as f64 / heads as f64;
        vec![
            self.time("rms_norm", layers + 1.0, Work::Elements(2 * size, 3 * size), || {
                one(rms_norm(x.clone(), scale.clone(), 1e-5))
            }),
            self.time("add_rms_norm", layers, Work::Elements(4 * size, 4 * size), || {
                let outputs = add_rms_norm(x.clone(), delta.clone(), scale.clone(), 1e-5);
                outputs.map(Erased::new).into()
            }),
            self.time("project q, k, v", layers, Work::product(tokens, dim, dim + 2 * kv), || {
                shared(&weights)
            }),
            self.time("rope", rotations, Work::Elements(2 * size, 2 * size), || {
                one(rope(q.clone(), &table, &positions))
            }),
            self.time("attention", layers, scores, || {
                let options = AttentionOptions::causal();
                one(attention(q.clone(), k.clone(), v.clone(), &options))
            }),
            self.time("linear o", layers, Work::product(tokens, dim, dim), || {
                one(linear(x.clone(), wo.clone(), None))
            }),
            self.time("project gate, up", layers, Work::product(tokens, dim, 2 * ffn), || {
                shared(&[w1.clone(), w3.clone()])
            }),
            self.time("swiglu", layers, Work::Elements(3 * wide, 5 * wide), || {
                one(swiglu(gate.clone(), up.clone()))
            }),
            self.time("linear down", layers, Work::product(tokens, ffn, dim), || {
                one(linear(gate.clone(), w2.clone(), None))
            }),
        ]
    }

    fn rope(&self, head_dim: usize) -> (RopeTable, RopePositions) {
        let device = self.device.clone().inner();
        let table = RopeTable::new(head_dim, self.sizes.sequence, 500_000.0, &device);
        (table, RopePositions::Offset(0))
    }

    /// The embedding and the head.
    fn ends(&self) -> [Timing; 2] {
        let TimingSizes { batch, sequence, dim, vocabulary, .. } = self.sizes;
        let tokens = batch * sequence;
        let ids: Vec<i64> = (0..tokens).map(|i| (i * 7919 % vocabulary) as i64).collect();
        let data = TensorData::new(ids, [batch, sequence]);
        let ids = Tensor::<2, Int>::from_data(data, &self.device.clone().inner());
        let labels: Tensor<1, Int> = ids.clone().reshape([tokens]);
        let x = self.leaf([tokens, dim]);
        let (table, head) = (self.leaf([vocabulary, dim]), self.leaf([dim, vocabulary]));
        let size = tokens * dim;
        // The head computes its gradients in forward.
        let product = 2 * size * vocabulary;
        [
            self.time("embedding", 1.0, Work::Elements(2 * size, 3 * size), || {
                one(embedding(table.clone(), ids.clone()))
            }),
            self.time("linear_cross_entropy", 1.0, Work::Flops(3 * product, 0), || {
                one(linear_cross_entropy(x.clone(), head.clone(), labels.clone()))
            }),
        ]
    }

    /// The passes over parameters: of all that a block of this size and the ends have.
    fn updates(&self) -> [Timing; 2] {
        let TimingSizes { dim, layers, heads, kv_heads, ffn, vocabulary, .. } = self.sizes;
        let kv = dim / heads * kv_heads;
        let count = layers * (2 * dim * (dim + kv) + 3 * dim * ffn) + 2 * vocabulary * dim;
        let device = self.device.clone().inner();
        let zeros = || Tensor::<1>::zeros([count], &device);
        let gradient = Tensor::<1>::random([count], Distribution::Uniform(-1.0, 1.0), &device);
        let hyper = AdamHyper {
            lr: 1e-3,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.1,
            decoupled: true,
            step: 10,
            grad_scale: 1.0,
        };
        let mut state = Some((zeros(), zeros(), zeros()));
        let adamw = self.median(|| {
            let (param, mean, square) = state.take().expect("put back by the run before");
            let begin = Instant::now();
            state = Some(adamw_step(param, gradient.clone(), mean, square, &hyper));
            self.wait();
            [begin.elapsed().as_secs_f64(), 0.0]
        });
        let norm = self.median(|| {
            let begin = Instant::now();
            let _ = sum_of_squares(&gradient);
            self.wait();
            [begin.elapsed().as_secs_f64(), 0.0]
        });
        [
            row("sum_of_squares", 1.0, &Work::Elements(count, 0), norm, 4),
            row("adamw_step", 1.0, &Work::Elements(7 * count, 0), adamw, 4),
        ]
    }

    fn time(
        &self,
        name: &str,
        per_step: f64,
        work: Work,
        operation: impl Fn() -> Vec<Erased>,
    ) -> Timing {
        let seconds = self.median(|| {
            let begin = Instant::now();
            let outputs = operation();
            self.wait();
            let forward = begin.elapsed().as_secs_f64();
            let seed = Seed::default();
            let loss = apply_erased_joint(outputs, seed.clone()).remove(0).into_tensor::<1>();
            let gradients = loss.backward();
            self.wait();
            let backward = seed.elapsed();
            drop(gradients);
            [forward, backward]
        });
        row(name, per_step, &work, seconds, self.dtype.size())
    }

    fn wait(&self) {
        self.device.clone().inner().sync().expect("the operations that are timed run");
    }

    /// Returns the medians of a measurement's two parts.
    fn median(&self, mut measure: impl FnMut() -> [f64; 2]) -> [f64; 2] {
        for _ in 0..3 {
            measure();
        }
        let (mut forward, mut backward): (Vec<f64>, Vec<f64>) =
            (0..self.repeats.max(1)).map(|_| measure().into()).unzip();
        [&mut forward, &mut backward].map(|times| {
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        })
    }
}

fn one<const D: usize>(output: Tensor<D>) -> Vec<Erased> {
    vec![Erased::new(output)]
}

fn row(
    name: &str,
    per_step: f64,
    work: &Work,
    [forward, backward]: [f64; 2],
    element: usize,
) -> Timing {
    let (unit, forward_work, backward_work) = match work {
        Work::Flops(forward, backward) => ("GFLOP/s", *forward, *backward),
        Work::Elements(forward, backward) => ("GB/s", element * forward, element * backward),
    };
    Timing {
        name: name.into(),
        per_step,
        forward_seconds: forward,
        backward_seconds: backward,
        forward_work: forward_work as f64,
        backward_work: backward_work as f64,
        unit,
    }
}

/// Ends a graph: gives every output a gradient of ones, and then starts the clock.
#[derive(Debug, Clone, Default)]
struct Seed(Arc<Mutex<Option<Instant>>>);

impl Seed {
    fn elapsed(&self) -> f64 {
        let started = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        started.map_or(0.0, |started| started.elapsed().as_secs_f64())
    }
}

impl JointKernel<Erased> for Seed {
    type Saved = Seeds;

    fn reads(&self, needs: &[bool]) -> Vec<bool> {
        vec![false; needs.len()]
    }

    fn first_weight(&self) -> usize {
        0
    }

    fn forward(&self, inputs: Vec<Erased>) -> (Vec<Erased>, Self::Saved) {
        let nothing = Erased::zeros(vec![1], inputs[0].dtype(), &inputs[0].device());
        let ones = inputs.iter().map(|input| {
            let zeros = Erased::zeros(input.shape(), input.dtype(), &input.device());
            Erased::new(zeros.any_rank() + 1.0)
        });
        (vec![nothing], Seeds(ones.collect()))
    }

    fn backward(
        &self,
        _inputs: Vec<Option<Erased>>,
        Seeds(ones): Self::Saved,
        _grads: Vec<Option<Erased>>,
        _needs: &[bool],
    ) -> Vec<Option<Erased>> {
        let device = ones[0].device();
        device.sync().expect("the operations that are timed run");
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        ones.into_iter().map(Some).collect()
    }
}

/// The gradients with which backward begins.
#[derive(Debug, Clone)]
struct Seeds(Vec<Erased>);

impl Keep for Seeds {
    fn list(&self, _: &mut Kept) {}
}
