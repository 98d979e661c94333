//! Attention on an NVIDIA GPU, in 16 bits: kernels for tensor cores that never hold the scores of a whole row.
//!
//! The kernels are in `cuda/`, with their algorithm, layouts and launches; here they are specialized and
//! launched. Backward repeats two of its seven products in exchange for sums in one order, so its results are the same
//! bits each time.

use burn::tensor::{DType, Int, Tensor};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use super::operation::Geometry;
use super::options::AttentionOptions;
use crate::backend::driver::Span;
use crate::kernels::cube::{empty, opened_integers};
use crate::kernels::cuda::launch;
use crate::kernels::cuda::module::{Argument, Launch, Program};

const FORWARD: &str = concat!(include_str!("cuda/common.cuh"), include_str!("cuda/forward.cu"));
const DELTA: &str =
    concat!(include_str!("cuda/common.cuh"), include_str!("cuda/backward_delta.cu"));
const KEYS: &str = concat!(include_str!("cuda/common.cuh"), include_str!("cuda/backward_keys.cu"));
const QUERIES: &str =
    concat!(include_str!("cuda/common.cuh"), include_str!("cuda/backward_queries.cu"));

const SUM: &str = concat!(include_str!("cuda/common.cuh"), include_str!("cuda/backward_sum.cu"));

/// Blocks below which the gradients of keys are split by heads: about one wave of a large GPU.
const FEW_BLOCKS: usize = 400;

/// Queries by whose number the statistics of backward are padded.
const PADDING: usize = 128;

/// Returns whether the kernels serve a head size and element types.
pub(super) fn serves(head_dim: usize, dtypes: [DType; 3]) -> bool {
    let is_one = dtypes.iter().all(|dtype| *dtype == dtypes[0]);
    let is_half = matches!(dtypes[0], DType::BF16 | DType::F16);
    is_one && is_half && head_dim.is_multiple_of(16) && (16..=128).contains(&head_dim)
}

/// How a kernel cuts its work; see `cuda/common.cuh`.
#[derive(Debug, Clone, Copy)]
struct Tiles {
    warps: usize,
    atoms: usize,
    columns: usize,
    blocks: usize,
    chunk: usize,
}

impl Tiles {
    const fn new(warps: usize, atoms: usize, columns: usize, blocks: usize, chunk: usize) -> Self {
        Self { warps, atoms, columns, blocks, chunk }
    }

    fn rows(self) -> usize {
        self.warps * self.atoms * 16
    }

    fn threads(self) -> u32 {
        (self.warps * 32) as u32
    }

    /// Shared memory of a pass of backward, which keeps so many bytes beside each column.
    fn backward_bytes(self, head_dim: usize, extra: usize) -> u32 {
        let stride = head_dim + 8;
        (2 * stride * (2 * self.rows() + 4 * self.columns) + extra * self.columns) as u32
    }
}

fn addresses(spans: &[Span]) -> impl Iterator<Item = Argument> {
    spans.iter().map(|span| Argument::Address(span.address))
}

/// An attention by these kernels. Tensors are contiguous.
#[derive(Debug, Clone)]
pub(super) struct GpuAttention {
    geometry: Geometry,
    options: AttentionOptions,
}

impl GpuAttention {
    pub(super) fn new(geometry: Geometry, options: AttentionOptions) -> Self {
        Self { geometry, options }
    }

    fn program(&self, source: &'static str, tiles: Tiles, dtype: DType, splits: usize) -> Program {
        let flag = usize::from;
        let defines = vec![
            ("HEAD_DIM", self.geometry.head_dim),
            (if dtype == DType::BF16 { "BF16" } else { "F16" }, 1),
            ("IS_CAUSAL", flag(self.options.causal)),
            ("HAS_WINDOW", flag(self.options.window.is_some())),
            ("HAS_DOCUMENTS", flag(self.options.documents.is_some())),
            ("IS_SPLIT", flag(splits > 1)),
            ("WARPS", tiles.warps),
            ("ATOMS", tiles.atoms),
            ("COLUMNS", tiles.columns),
            ("BLOCKS", tiles.blocks),
            ("CHUNK", tiles.chunk),
        ];
        Program { source, defines }
    }

    /// Returns the documents of queries and keys as 32-bit numbers, or what stands in their place where none are read.
    fn documents(&self, other: &CubeTensor) -> [CubeTensor; 2] {
        let ids =
            |ids: &Tensor<2, Int>| into_contiguous(opened_integers(ids.clone().cast(DType::I32)));
        match &self.options.documents {
            Some(of_queries) => {
                let of_keys = self.options.key_documents.as_ref().unwrap_or(of_queries);
                [ids(of_queries), ids(of_keys)]
            }
            None => [other.clone(), other.clone()],
        }
    }

    /// Returns the arguments that all kernels have in common: positions and scale.
    fn tail(&self) -> [Argument; 3] {
        let shift = self.options.query_offset as i64 - self.options.key_offset as i64;
        let window = self
            .options
            .window
            .map_or(i32::MAX, |window| i32::try_from(window).unwrap_or(i32::MAX));
        [Argument::I32(shift as i32), Argument::I32(window), Argument::F32(self.geometry.scale)]
    }

    /// Returns the output and the log-sum-exp of each query's scores, `[batch, heads, queries]`.
    pub(super) fn forward(&self, [q, k, v]: &[CubeTensor; 3]) -> (CubeTensor, CubeTensor) {
        let Geometry { batch, queries, keys, heads, kv_heads, head_dim, .. } = self.geometry;
        let output = empty(q, [batch, queries, heads, head_dim], q.dtype);
        let log_totals = empty(q, [batch, heads, queries], DType::F32);
        let tiles = forward_tiles(head_dim);
        let stride = head_dim + 8;
        let shape = Launch {
            grid: [heads as u32, batch as u32, queries.div_ceil(tiles.rows()) as u32],
            threads: tiles.threads(),
            shared: (2 * stride * (tiles.rows() + 4 * tiles.columns) + 8 * tiles.columns) as u32,
        };
        let [of_queries, of_keys] = self.documents(q);
        let sizes = [queries, keys, heads, kv_heads].map(|size| Argument::I32(size as i32));
        let tail = self.tail();
        launch(
            self.program(FORWARD, tiles, q.dtype, 1),
            "attention_forward",
            shape,
            &[q, k, v, &of_queries, &of_keys, &output, &log_totals],
            move |spans| addresses(spans).chain(sizes).chain(tail).collect(),
        );
        (output, log_totals)
    }

    /// Returns the gradients of queries, keys and values.
    pub(super) fn backward(
        &self,
        [q, k, v]: &[CubeTensor; 3],
        output: &CubeTensor,
        log_totals: &CubeTensor,
        grad: &CubeTensor,
    ) -> [CubeTensor; 3] {
        let statistics = self.statistics(output, log_totals, grad);
        let documents = self.documents(q);
        let tensors = [q, k, v, grad, &statistics, &documents[0], &documents[1]];
        let [dk, dv] = self.key_gradients(tensors);
        [self.query_gradient(tensors), dk, dv]
    }

    /// Returns the numbers that both passes of backward take after their tensors.
    fn numbers(&self) -> [Argument; 8] {
        let Geometry { queries, keys, heads, kv_heads, .. } = self.geometry;
        let padded = queries.next_multiple_of(PADDING);
        let [a, b, c, d, e] =
            [queries, padded, keys, heads, kv_heads].map(|size| Argument::I32(size as i32));
        let [shift, window, scale] = self.tail();
        [a, b, c, d, e, shift, window, scale]
    }

    fn query_gradient(&self, tensors: [&CubeTensor; 7]) -> CubeTensor {
        let Geometry { batch, queries, heads, head_dim, .. } = self.geometry;
        let q = tensors[0];
        let dq = empty(q, [batch, queries, heads, head_dim], q.dtype);
        let tiles = queries_tiles(head_dim);
        let shape = Launch {
            grid: [heads as u32, batch as u32, queries.div_ceil(tiles.rows()) as u32],
            threads: tiles.threads(),
            shared: tiles.backward_bytes(head_dim, 8),
        };
        let program = self.program(QUERIES, tiles, q.dtype, 1);
        let numbers = self.numbers();
        let all = [&tensors[..], &[&dq]].concat();
        launch(program, "attention_backward_queries", shape, &all, move |spans| {
            addresses(spans).chain(numbers).collect()
        });
        dq
    }

    fn key_gradients(&self, tensors: [&CubeTensor; 7]) -> [CubeTensor; 2] {
        let Geometry { batch, keys, heads, kv_heads, head_dim, .. } = self.geometry;
        let [_, k, v, ..] = tensors;
        let tiles = keys_tiles(head_dim);
        let blocks = kv_heads * batch * keys.div_ceil(tiles.rows());
        // Few blocks of unequal length leave multiprocessors idle: then each takes one head of its group.
        let splits = if blocks < FEW_BLOCKS { heads / kv_heads } else { 1 };
        let shape = Launch {
            grid: [(kv_heads * splits) as u32, batch as u32, keys.div_ceil(tiles.rows()) as u32],
            threads: tiles.threads(),
            shared: tiles.backward_bytes(head_dim, 24),
        };
        let [dk, dv] = [k, v].map(|x| empty(x, [batch, keys, kv_heads, head_dim], x.dtype));
        let program = self.program(KEYS, tiles, k.dtype, splits);
        let numbers = self.numbers();
        let name = "attention_backward_keys";
        let run = |outputs: [&CubeTensor; 2]| {
            let all = [&tensors[..], &outputs].concat();
            launch(program, name, shape, &all, move |spans| {
                addresses(spans).chain(numbers).collect()
            });
        };
        if splits == 1 {
            run([&dk, &dv]);
            return [dk, dv];
        }
        let parts =
            [k, v].map(|x| empty(x, [splits, batch * keys * kv_heads * head_dim], DType::F32));
        run([&parts[0], &parts[1]]);
        for (part, sum) in parts.iter().zip([&dk, &dv]) {
            self.add_parts(part, sum, splits);
        }
        [dk, dv]
    }

    /// Adds the sums of the heads of each group, in their order.
    fn add_parts(&self, parts: &CubeTensor, sum: &CubeTensor, splits: usize) {
        let tiles = Tiles::new(4, 1, 16, 2, 16);
        let count = sum.meta.shape().num_elements();
        let blocks = count.div_ceil(4 * tiles.threads() as usize);
        let shape = Launch { grid: [blocks as u32, 1, 1], threads: tiles.threads(), shared: 0 };
        let numbers = [Argument::I32(splits as i32), Argument::I64(count as i64)];
        let program = self.program(SUM, tiles, sum.dtype, splits);
        launch(program, "attention_backward_sum", shape, &[parts, sum], move |spans| {
            addresses(spans).chain(numbers).collect()
        });
    }

    /// Computes what both passes of backward need of each query.
    fn statistics(
        &self,
        output: &CubeTensor,
        log_totals: &CubeTensor,
        grad: &CubeTensor,
    ) -> CubeTensor {
        let Geometry { batch, queries, heads, head_dim, .. } = self.geometry;
        let padded = queries.next_multiple_of(PADDING);
        let statistics = empty(output, [2, batch, heads, padded], DType::F32);
        let tiles = Tiles::new(8, 1, 16, 1, 16);
        // Lanes that share a query; see the kernel.
        let lanes = (head_dim / 8).next_power_of_two().max(2);
        let per_block = tiles.threads() as usize / lanes;
        let shape = Launch {
            grid: [(padded * heads).div_ceil(per_block) as u32, batch as u32, 1],
            threads: tiles.threads(),
            shared: 0,
        };
        let sizes = [queries, padded, heads].map(|size| Argument::I32(size as i32));
        launch(
            self.program(DELTA, tiles, output.dtype, 1),
            "attention_backward_delta",
            shape,
            &[output, grad, log_totals, &statistics],
            move |spans| addresses(spans).chain(sizes).collect(),
        );
        statistics
    }
}

/// Tiles of the forward pass by head size. These and the following were measured on an H100; see `docs/cuda.md`.
fn forward_tiles(head_dim: usize) -> Tiles {
    match head_dim {
        65..=96 => Tiles::new(4, 2, 32, 2, 16),
        _ => Tiles::new(4, 2, 64, 2, 16),
    }
}

/// Tiles of the gradients of keys and values.
fn keys_tiles(head_dim: usize) -> Tiles {
    match head_dim {
        0..=64 => Tiles::new(4, 2, 64, 2, 32),
        _ => Tiles::new(4, 1, 64, 2, 64),
    }
}

/// Tiles of the gradient of queries.
fn queries_tiles(head_dim: usize) -> Tiles {
    match head_dim {
        0..=64 => Tiles::new(4, 2, 64, 2, 64),
        _ => Tiles::new(4, 2, 32, 2, 32),
    }
}
