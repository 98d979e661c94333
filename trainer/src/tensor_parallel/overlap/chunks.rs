//! Where the chunks of a split sequence lie, and how they travel.

use burn::tensor::TensorData;
use burn_flex::FlexTensor;
use faer::MatRef;

use crate::comm::differentiable::raise;
use crate::comm::{CommError, ProcessGroup, ReduceOp, Work};
use crate::kernels::matmul;

/// Chunks of a sequence: more hide more of the travel and make the products smaller.
const CHUNKS: usize = 4;

/// Returns the number of chunks into which a part of a sequence is cut evenly.
pub(super) fn count(part: usize) -> usize {
    (1..=CHUNKS).rev().find(|chunks| part.is_multiple_of(*chunks)).unwrap_or(1)
}

/// The chunks of `[b, s, ..]`, whose sequence lies in parts on `n` ranks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chunks {
    batch: usize,
    ranks: usize,
    /// Tokens of a rank's part.
    part: usize,
    count: usize,
}

impl Chunks {
    pub(super) fn new(batch: usize, part: usize, group: &ProcessGroup) -> Self {
        Self { batch, ranks: group.size(), part, count: count(part) }
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Returns the tokens that one rank has of one chunk of one sequence: rows that lie together.
    pub(super) fn len(&self) -> usize {
        self.part / self.count
    }

    /// Returns the rows of the whole, of the own part and of a gathered chunk.
    pub(super) fn rows(&self) -> [usize; 3] {
        let own = self.batch * self.part;
        [own * self.ranks, own, self.batch * self.ranks * self.len()]
    }

    /// Returns the first rows of a chunk's blocks: in the whole, and in the gathered chunk.
    pub(super) fn blocks(self, chunk: usize) -> impl Iterator<Item = (usize, usize)> {
        let blocks = 0..self.batch * self.ranks;
        blocks.map(move |block| (block * self.part + chunk * self.len(), block * self.len()))
    }

    /// Returns the first rows of a chunk's blocks: in the own part, and in the own part of the chunk.
    fn own_blocks(self, chunk: usize) -> impl Iterator<Item = (usize, usize)> {
        let blocks = 0..self.batch;
        blocks.map(move |block| (block * self.part + chunk * self.len(), block * self.len()))
    }

    /// Reads a block of a row-major matrix.
    pub(super) fn block<'a>(
        &self,
        values: &'a [f32],
        first: usize,
        columns: usize,
    ) -> MatRef<'a, f32> {
        let span = first * columns..(first + self.len()) * columns;
        matmul::rows(&values[span], self.len(), columns)
    }

    /// Multiplies a block by `weight` and sets a block of `out`, or adds to it.
    pub(super) fn product(
        &self,
        out: (&mut [f32], usize),
        block: MatRef<'_, f32>,
        weight: MatRef<'_, f32>,
        adds: bool,
    ) {
        let ((values, first), columns) = (out, weight.ncols());
        let span = first * columns..(first + self.len()) * columns;
        let out = matmul::rows_mut(&mut values[span], self.len(), columns);
        if adds {
            matmul::add_product(out, block, weight);
        } else {
            matmul::product(out, block, weight);
        }
    }

    /// Issues the all-gather of a chunk of the own part.
    pub(super) fn issue_gather(
        &self,
        own: &[f32],
        chunk: usize,
        columns: usize,
        group: &ProcessGroup,
    ) -> Work {
        let mut values = Vec::with_capacity(self.batch * self.len() * columns);
        for (first, _) in self.own_blocks(chunk) {
            values.extend_from_slice(&own[first * columns..(first + self.len()) * columns]);
        }
        let data = TensorData::new(values, [self.batch, self.len(), columns]);
        or_raise(group.issue_all_gather(data, 1))
    }

    /// Issues the reduce-scatter of a chunk of all rows.
    pub(super) fn issue_scatter(
        &self,
        values: Vec<f32>,
        columns: usize,
        group: &ProcessGroup,
    ) -> Work {
        let data = TensorData::new(values, [self.batch, self.ranks * self.len(), columns]);
        or_raise(group.issue_reduce_scatter(data, 1, ReduceOp::Sum))
    }

    /// Waits for scattered chunks and puts them together as the own part.
    pub(super) fn join(&self, works: impl IntoIterator<Item = Work>, columns: usize) -> FlexTensor {
        let [_, own, _] = self.rows();
        let mut joined = vec![0.0; own * columns];
        for (chunk, work) in works.into_iter().enumerate() {
            let arrived = wait(work);
            let values = arrived.storage::<f32>();
            for (to, from) in self.own_blocks(chunk) {
                let span = |first: usize| first * columns..(first + self.len()) * columns;
                joined[span(to)].copy_from_slice(&values[span(from)]);
            }
        }
        crate::kernels::flex::tensor(joined, [self.batch, self.part, columns])
    }

    /// Returns the shape of a tensor of the whole sequence.
    pub(super) fn whole(&self, columns: usize) -> [usize; 3] {
        [self.batch, self.ranks * self.part, columns]
    }
}

/// Waits for a chunk.
pub(super) fn wait(work: Work) -> FlexTensor {
    FlexTensor::from_data(or_raise(work.wait()))
}

fn or_raise<T>(result: Result<T, CommError>) -> T {
    result.unwrap_or_else(|error| raise(error))
}
