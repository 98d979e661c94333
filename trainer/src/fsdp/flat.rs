//! The flat buffers in which all parameters of a unit travel together.
//!
//! Each parameter is split along dimension 0 in chunks of `ceil(rows / ranks)`. A rank's part of
//! the buffer is its chunk of each parameter, one after the other, filled up with zeros where a
//! chunk is short, so that all parts have one length:
//!
//! ```text
//! rank 0: | wq rows 0..2 | norm 0..3 | rank 1: | wq rows 2..3, 0 | norm 3..5, 0 |
//! ```

use std::ops::Range;

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
        Erased::zeros(self.shapes[index].clone(), dtype, device)
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
    fn held(&self, shape: &[usize], rank: usize) -> Range<usize> {
        let rows = shard_range(shape[0], self.ranks, rank);
        rows.start * row_len(shape)..rows.end * row_len(shape)
    }

    /// Lays out this rank's part from its shards.
    pub(crate) fn pack_part(&self, shards: &[Erased]) -> Erased {
        self.pack(shards, false)
    }

    /// Lays out the parts of all ranks from whole parameters.
    pub(crate) fn pack_whole(&self, tensors: &[Erased]) -> Erased {
        self.pack(tensors, true)
    }

    fn pack(&self, tensors: &[Erased], whole: bool) -> Erased {
        let (dtype, device) = (tensors[0].dtype(), tensors[0].device());
        if !tensors[0].is_host() {
            return Erased::cat(self.pieces(tensors, whole), 0);
        }
        let len = self.part_len() * if whole { self.ranks } else { 1 };
        let pack = Pack { layout: self, tensors, whole, len };
        Erased::from_data(by_size(dtype, pack, dtype, vec![len]), &device)
    }

    /// Returns what follows each other in a buffer, as tensors of their device.
    fn pieces(&self, tensors: &[Erased], whole: bool) -> Vec<Erased> {
        let mut pieces = Vec::new();
        for rank in 0..if whole { self.ranks } else { 1 } {
            for (shape, tensor) in self.shapes.iter().zip(tensors) {
                let held =
                    if whole { self.held(shape, rank) } else { 0..tensor.shape().iter().product() };
                let fill = self.chunk_len(shape) - held.len();
                if !held.is_empty() {
                    pieces.push(tensor.clone().flatten().narrow(0, held.start, held.len()));
                }
                if fill > 0 {
                    pieces.push(Erased::zeros(vec![fill], tensor.dtype(), &tensor.device()));
                }
            }
        }
        pieces
    }

    /// Takes the whole parameters out of the parts of all ranks.
    pub(crate) fn unpack_whole(&self, parts: Erased) -> Vec<Erased> {
        self.unpack(parts, |layout, shape, offset| {
            let spans = (0..layout.ranks).map(|rank| {
                let start = rank * layout.part_len() + offset;
                start..start + layout.held(shape, rank).len()
            });
            (spans.collect(), shape.to_vec())
        })
    }

    /// Takes the shards of `rank` out of its part.
    pub(crate) fn unpack_part(&self, part: Erased, rank: usize) -> Vec<Erased> {
        self.unpack(part, |layout, shape, offset| {
            let mut local = shape.to_vec();
            local[0] = shard_range(shape[0], layout.ranks, rank).len();
            let len = layout.held(shape, rank).len();
            (std::iter::once(offset..offset + len).collect(), local)
        })
    }

    /// Takes tensors out of a buffer: `spans` says where the elements of each lie, and its shape.
    fn unpack(
        &self,
        from: Erased,
        spans: impl Fn(&Self, &[usize], usize) -> (Vec<Range<usize>>, Vec<usize>),
    ) -> Vec<Erased> {
        let mut offset = 0;
        let place = |shape: &Vec<usize>| {
            let place = spans(self, shape, offset);
            offset += self.chunk_len(shape);
            place
        };
        let places: Vec<_> = self.shapes.iter().map(place).collect();
        if !from.is_host() {
            return places
                .into_iter()
                .map(|(spans, shape)| join_spans(&from, spans, shape))
                .collect();
        }
        let (device, data) = (from.device(), from.into_data());
        let copy = |(spans, shape)| Erased::from_data(copy_spans(&data, spans, shape), &device);
        places.into_iter().map(copy).collect()
    }
}

/// Copies spans of a buffer on its device into a tensor of their own.
fn join_spans(from: &Erased, spans: Vec<Range<usize>>, shape: Vec<usize>) -> Erased {
    let pieces: Vec<_> = spans
        .into_iter()
        .filter(|span| !span.is_empty())
        .map(|span| from.clone().narrow(0, span.start, span.len()))
        .collect();
    if pieces.is_empty() {
        return Erased::zeros(shape, from.dtype(), &from.device());
    }
    Erased::cat(pieces, 0).reshape(shape)
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
    spans: Vec<Range<usize>>,
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

fn copy_spans(from: &TensorData, spans: Vec<Range<usize>>, shape: Vec<usize>) -> TensorData {
    by_size(from.dtype(), Spans { from, spans }, from.dtype(), shape)
}
