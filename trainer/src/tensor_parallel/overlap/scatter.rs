//! A product whose sum over the ranks leaves in chunks.

use burn::tensor::Tensor;
use burn_flex::FlexTensor;

use super::chunks::{Chunks, wait};
use crate::comm::{ProcessGroup, Work};
use crate::kernels::fused::{Kernel, apply2};
use crate::kernels::{flex, matmul};

pub(super) fn linear_reduce_scatter(
    x: Tensor<3>,
    weight: Tensor<2>,
    group: &ProcessGroup,
) -> Tensor<3> {
    let [batch, tokens, _] = x.dims();
    let chunks = Chunks::new(batch, tokens / group.size(), group);
    apply2(x, weight, ScatterKernel { chunks, group: group.clone() })
}

#[derive(Debug, Clone)]
struct ScatterKernel {
    chunks: Chunks,
    group: ProcessGroup,
}

impl Kernel<2> for ScatterKernel {
    type Saved = ();

    fn reads(&self, [x, weight]: [bool; 2]) -> [bool; 2] {
        [weight, x]
    }

    fn weights(&self) -> [bool; 2] {
        [false, true]
    }

    fn forward(&self, [x, weight]: [FlexTensor; 2], _needs: [bool; 2]) -> (FlexTensor, ()) {
        let (x, weight) = (flex::contiguous(x), matmul::viewable(weight));
        let weight = matmul::view(&weight).expect("the weight was made viewable");
        let (inputs, outputs) = (weight.nrows(), weight.ncols());
        let chunks = &self.chunks;
        let [.., rows] = chunks.rows();
        let issue = |chunk: usize| {
            let mut product = flex::scratch(rows * outputs);
            for (from, to) in chunks.blocks(chunk) {
                let block = chunks.block(x.storage(), from, inputs);
                chunks.product((&mut product, to), block, weight, false);
            }
            chunks.issue_scatter(product, outputs, &self.group)
        };
        let works: Vec<Work> = (0..chunks.count()).map(issue).collect();
        (chunks.join(works, outputs), ())
    }

    fn backward(
        &self,
        [x, weight]: [Option<FlexTensor>; 2],
        (): (),
        grad: FlexTensor,
        _needs: [bool; 2],
    ) -> [Option<FlexTensor>; 2] {
        let grad = flex::contiguous(grad);
        let (_, outputs) = flex::matrix_dims(&grad);
        let chunks = &self.chunks;
        let [whole, ..] = chunks.rows();
        let issue = |chunk| chunks.issue_gather(grad.storage(), chunk, outputs, &self.group);
        let works: Vec<Work> = (0..chunks.count()).map(issue).collect();
        let x = x.map(flex::contiguous);
        let weight = weight.map(matmul::viewable);
        let weight = weight
            .as_ref()
            .map(|weight| matmul::view(weight).expect("the weight was made viewable").transpose());
        let mut dx = weight.map(|weight| flex::scratch(whole * weight.ncols()));
        let mut dw = x.as_ref().map(|x| vec![0.0; flex::matrix_dims(x).1 * outputs]);
        for (chunk, work) in works.into_iter().enumerate() {
            let arrived = wait(work);
            for (at, from) in chunks.blocks(chunk) {
                let block = chunks.block(arrived.storage(), from, outputs);
                if let (Some(dx), Some(weight)) = (&mut dx, weight) {
                    chunks.product((dx, at), block, weight, false);
                }
                if let (Some(dw), Some(x)) = (&mut dw, &x) {
                    let (_, inputs) = flex::matrix_dims(x);
                    let x = chunks.block(x.storage(), at, inputs).transpose();
                    matmul::add_product(matmul::rows_mut(dw, inputs, outputs), x, block);
                }
            }
        }
        let inputs = |values: &[f32], others: usize| values.len() / others.max(1);
        [
            dx.map(|dx| {
                let columns = inputs(&dx, whole);
                flex::tensor(dx, chunks.whole(columns))
            }),
            dw.map(|dw| {
                let rows = inputs(&dw, outputs);
                flex::tensor(dw, [rows, outputs])
            }),
        ]
    }
}
