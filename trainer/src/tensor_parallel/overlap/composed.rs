//! The overlapped products, composed of differentiable collectives: for backends without a kernel.

use burn::tensor::Tensor;

use super::chunks;
use crate::comm::ProcessGroup;
use crate::comm::differentiable::{Issued, issue_all_gather, issue_reduce_scatter};
use crate::kernels;
use crate::nn::Linear;

pub(super) fn all_gather_project(
    x: &Tensor<3>,
    layers: &[&Linear],
    group: &ProcessGroup,
) -> Vec<Tensor<3>> {
    let [b, part, _] = x.dims();
    let (n, count) = (group.size(), chunks::count(part));
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

pub(super) fn linear_reduce_scatter(
    x: Tensor<3>,
    weight: &Tensor<2>,
    group: &ProcessGroup,
) -> Tensor<3> {
    let [b, s, h] = x.dims();
    let n = group.size();
    let part = s / n;
    let count = chunks::count(part);
    let len = part / count;
    let x = x.reshape([b, n, part, h]);
    let chunk = |i: usize| {
        let x = x.clone().narrow(2, i * len, len).reshape([b, n * len, h]);
        issue_reduce_scatter(kernels::linear(x, weight.clone(), None), 1, group)
    };
    let issued: Vec<_> = (0..count).map(chunk).collect();
    Tensor::cat(issued.into_iter().map(Issued::wait).collect(), 1)
}
