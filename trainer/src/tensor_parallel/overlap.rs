//! Products that run while parts of their inputs or outputs travel.
//!
//! A sequence is cut into chunks. While one chunk is multiplied the next one is under way, so that
//! with hardware that communicates beside computing only the first or last chunk's travel is waited
//! for. The numbers are those of the plain operations.

use burn::tensor::Tensor;

use crate::comm::ProcessGroup;
use crate::comm::differentiable::{Issued, issue_all_gather, issue_reduce_scatter};
use crate::kernels;
use crate::nn::Linear;

/// Chunks of a sequence: more hide more of the travel and make the products smaller.
const CHUNKS: usize = 4;

/// Returns the number of chunks into which a part of a sequence is cut evenly.
fn chunks(part: usize) -> usize {
    (1..=CHUNKS).rev().find(|chunks| part.is_multiple_of(*chunks)).unwrap_or(1)
}

/// Gathers a split sequence and applies layers to it: `[b, s / n, h]` to `[b, s, o]` each.
///
/// # Communication
///
/// As many all-gathers as chunks, together of the volume of one; backward as many reduce-scatters.
pub(super) fn all_gather_project(
    x: &Tensor<3>,
    layers: &[&Linear],
    group: &ProcessGroup,
) -> Vec<Tensor<3>> {
    let [b, part, _] = x.dims();
    let (n, count) = (group.size(), chunks(part));
    let len = part / count;
    let mut issued =
        (0..count).map(|i| issue_all_gather(x.clone().narrow(1, i * len, len), 1, group));
    let mut outputs = vec![Vec::new(); layers.len()];
    let mut next = issued.next();
    while let Some(current) = next {
        // The next chunk leaves before this one is multiplied.
        next = issued.next();
        let gathered = current.wait();
        for (layer, outputs) in layers.iter().zip(&mut outputs) {
            let y = layer.forward(gathered.clone());
            let width = y.dims()[2];
            outputs.push(y.reshape([b, n, len, width]));
        }
    }
    let join = |chunks: Vec<Tensor<4>>| {
        let y = Tensor::cat(chunks, 2);
        let width = y.dims()[3];
        y.reshape([b, n * part, width])
    };
    outputs.into_iter().map(join).collect()
}

/// Multiplies by the own rows of a weight and keeps the own part of the sequence of the sum: `[b,
/// s, h / n]` to `[b, s / n, o]`.
///
/// # Communication
///
/// As many reduce-scatters as chunks, together of the volume of one; backward as many all-gathers.
pub(super) fn linear_reduce_scatter(
    x: Tensor<3>,
    weight: Tensor<2>,
    group: &ProcessGroup,
) -> Tensor<3> {
    let [b, s, h] = x.dims();
    let n = group.size();
    if !s.is_multiple_of(n) {
        // The plain operation says what is wrong.
        return crate::comm::differentiable::reduce_scatter(
            kernels::linear(x, weight, None),
            1,
            group,
        );
    }
    let part = s / n;
    let count = chunks(part);
    let len = part / count;
    let x = x.reshape([b, n, part, h]);
    let chunk = |i: usize| {
        let x = x.clone().narrow(2, i * len, len).reshape([b, n * len, h]);
        issue_reduce_scatter(kernels::linear(x, weight.clone(), None), 1, group)
    };
    let issued: Vec<_> = (0..count).map(chunk).collect();
    Tensor::cat(issued.into_iter().map(Issued::wait).collect(), 1)
}
