//! The flat buffers in which all parameters of a unit travel together.
//!
//! Each parameter is split along dimension 0 in chunks of `ceil(rows / ranks)`. A rank's part of
//! the buffer is its chunk of each parameter, one after the other, filled up with zeros where a
//! chunk is short, so that all parts have one length:
//!
//! ```text
//! rank 0: | wq rows 0..2 | norm 0..3 | rank 1: | wq rows 2..3, 0 | norm 3..5, 0 |
//! ```

use burn::tensor::{Bytes, DType, Device, TensorData};
use bytemuck::Pod;

use super::Erased;
use crate::mesh::shard_range;

/// Sizes of a unit's parameters, of which each of `ranks` ranks holds a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FlatLayout {
    /// Shapes of the whole parameters.
    shapes: Vec<Vec<usize>>,
    ranks: usize,
}

impl FlatLayout {
    pub(crate) fn new(shapes: Vec<Vec<usize>>, ranks: usize) -> Self {
        Self { shapes, ranks }
    }

    /// Keeps the parameters for which `keep` holds.
    pub(crate) fn filter(&self, keep: impl Fn(usize) -> bool) -> Self {
        let shapes = self
            .shapes
            .iter()
            .enumerate()
            .filter(|(index, _)| keep(*index))
            .map(|(_, shape)| shape.clone());
        Self { shapes: shapes.collect(), ranks: self.ranks }
    }

    /// Makes a gradient of zero for a whole parameter.
    pub(crate) fn zeros(&self, index: usize, dtype: DType, device: &Device) -> Erased {
        let shape = &self.shapes[index];
        let zeros = vec![0.0_f32; shape.iter().product()];
        Erased::from_data(TensorData::new(zeros, shape.clone()).convert_dtype(dtype), device)
    }

    /// Returns the number of elements of all parameters.
    pub(crate) fn num_elements(&self) -> usize {
        self.shapes.iter().map(|shape| shape.iter().product::<usize>()).sum()
    }

    /// Returns the number of elements in a rank's part.
    pub(crate) fn part_len(&self) -> usize {
        self.shapes.iter().map(|shape| self.chunk_len(shape)).sum()
    }

    fn chunk_len(&self, shape: &[usize]) -> usize {
        shape[0].div_ceil(self.ranks) * row_len(shape)
    }

    /// Returns the range of elements that a rank holds of a parameter.
    fn held(&self, shape: &[usize], rank: usize) -> std::ops::Range<usize> {
        let rows = shard_range(shape[0], self.ranks, rank);
        rows.start * row_len(shape)..rows.end * row_len(shape)
    }

    /// Lays out this rank's part from its shards.
    pub(crate) fn pack_part(&self, shards: &[Erased], dtype: DType) -> TensorData {
        let len = self.part_len();
        by_size(dtype, Pack { layout: self, tensors: shards, whole: false, len }, dtype, vec![len])
    }

    /// Lays out the parts of all ranks from whole parameters.
    pub(crate) fn pack_whole(&self, tensors: &[Erased], dtype: DType) -> TensorData {
        let len = self.part_len() * self.ranks;
        by_size(dtype, Pack { layout: self, tensors, whole: true, len }, dtype, vec![len])
    }

    /// Takes the whole parameters out of the parts of all ranks.
    pub(crate) fn unpack_whole(&self, parts: &TensorData, device: &Device) -> Vec<Erased> {
        let mut offset = 0;
        let unpack = |shape: &Vec<usize>| {
            let spans = (0..self.ranks).map(|rank| {
                let start = rank * self.part_len() + offset;
                start..start + self.held(shape, rank).len()
            });
            let data = copy_spans(parts, spans.collect(), shape.clone());
            offset += self.chunk_len(shape);
            Erased::from_data(data, device)
        };
        self.shapes.iter().map(unpack).collect()
    }

    /// Takes the shards of `rank` out of its part.
    pub(crate) fn unpack_part(
        &self,
        part: &TensorData,
        rank: usize,
        device: &Device,
    ) -> Vec<Erased> {
        let mut offset = 0;
        let unpack = |shape: &Vec<usize>| {
            let mut local = shape.clone();
            local[0] = shard_range(shape[0], self.ranks, rank).len();
            let len = self.held(shape, rank).len();
            let data = copy_spans(part, std::iter::once(offset..offset + len).collect(), local);
            offset += self.chunk_len(shape);
            Erased::from_data(data, device)
        };
        self.shapes.iter().map(unpack).collect()
    }
}

fn row_len(shape: &[usize]) -> usize {
    shape[1..].iter().product()
}

/// Work that is the same for all element types of one size.
trait BySize {
    fn run<E: Pod + Send + Sync>(self) -> Vec<E>;
}

/// Runs `work` on unsigned integers of the element's size, which give the buffer its alignment.
fn by_size(dtype: DType, work: impl BySize, stored: DType, shape: Vec<usize>) -> TensorData {
    let bytes = match dtype.size() {
        2 => Bytes::from_elems(work.run::<u16>()),
        4 => Bytes::from_elems(work.run::<u32>()),
        8 => Bytes::from_elems(work.run::<u64>()),
        size => unreachable!("float elements have 2, 4 or 8 bytes, not {size}"),
    };
    TensorData::from_bytes(bytes, shape, stored)
}

struct Pack<'a> {
    layout: &'a FlatLayout,
    tensors: &'a [Erased],
    whole: bool,
    len: usize,
}

impl BySize for Pack<'_> {
    fn run<E: Pod + Send + Sync>(self) -> Vec<E> {
        let Self { layout, tensors, whole, len } = self;
        let mut flat = Vec::with_capacity(len);
        for rank in 0..if whole { layout.ranks } else { 1 } {
            for (shape, tensor) in layout.shapes.iter().zip(tensors) {
                let end = flat.len() + layout.chunk_len(shape);
                tensor.read_bytes(|bytes| {
                    let elements: &[E] = bytemuck::cast_slice(bytes);
                    let held = if whole { layout.held(shape, rank) } else { 0..elements.len() };
                    flat.extend_from_slice(&elements[held]);
                });
                flat.resize(end, E::zeroed());
            }
        }
        flat
    }
}

struct Spans<'a> {
    from: &'a TensorData,
    spans: Vec<std::ops::Range<usize>>,
}

impl BySize for Spans<'_> {
    fn run<E: Pod + Send + Sync>(self) -> Vec<E> {
        let elements: &[E] = bytemuck::cast_slice(self.from.as_bytes());
        let mut out = Vec::with_capacity(self.spans.iter().map(ExactSizeIterator::len).sum());
        for span in self.spans {
            out.extend_from_slice(&elements[span]);
        }
        out
    }
}

fn copy_spans(
    from: &TensorData,
    spans: Vec<std::ops::Range<usize>>,
    shape: Vec<usize>,
) -> TensorData {
    by_size(from.dtype(), Spans { from, spans }, from.dtype(), shape)
}
