//! Output projection and cross-entropy in one operation that never holds the logits of all tokens.
//!
//! The loss is linear in its own gradient, so forward computes the input's and the weight's gradients while a block of
//! logits is at hand, and backward only scales them: three products in all, where recomputing the logits would take four.

use std::sync::Arc;

use burn::tensor::{Int, Tensor};
use burn_flex::FlexTensor;
use faer::MatRef;

use super::composed_head;
use super::rows;
use crate::kernels::fused::{Kernel, apply2};
use crate::kernels::{dispatch, flex, matmul};

/// Logits held at a time: the block and its gradient stay near the cores.
const BLOCK: usize = 1024 * 1024;

/// Fewest tokens of a block: below this, the products lose their speed.
const FEWEST_TOKENS: usize = 128;

/// Projects hidden states to logits and sums their losses; the logits of all tokens never exist at once.
///
/// # Shapes
///
/// `x` is `[tokens, hidden]`, `weight` is `[hidden, vocabulary]`, `labels` is `[tokens]`; the result is `[1]`.
pub fn linear_cross_entropy(x: Tensor<2>, weight: Tensor<2>, labels: Tensor<1, Int>) -> Tensor<1> {
    head(x, weight, labels, false)
}

/// Projects hidden states by a tied embedding and sums their losses, as [`linear_cross_entropy`] does.
///
/// # Shapes
///
/// `x` is `[tokens, hidden]`, `embedding` is `[vocabulary, hidden]`, `labels` is `[tokens]`; the result is `[1]`.
pub fn tied_linear_cross_entropy(
    x: Tensor<2>,
    embedding: Tensor<2>,
    labels: Tensor<1, Int>,
) -> Tensor<1> {
    head(x, embedding, labels, true)
}

fn head(x: Tensor<2>, weight: Tensor<2>, labels: Tensor<1, Int>, tied: bool) -> Tensor<1> {
    let [tokens, hidden] = x.dims();
    let [rows, columns] = weight.dims();
    let (inner, vocabulary) = if tied { (columns, rows) } else { (rows, columns) };
    assert_eq!(hidden, inner, "the weight must take the hidden states");
    assert_eq!(tokens, labels.dims()[0], "every token needs a label");
    if dispatch::has_fused_kernel(&x.device(), &[x.dtype(), weight.dtype()]) {
        let targets = rows::targets(labels, vocabulary).into();
        return apply2(x, weight, HeadKernel { targets, tied });
    }
    composed_head::head(x, weight, labels, tied)
}

#[derive(Debug, Clone)]
struct HeadKernel {
    targets: Arc<[Option<usize>]>,
    tied: bool,
}

impl Kernel<2> for HeadKernel {
    const NARROWS: bool = false;

    /// The gradients of a loss gradient of one.
    type Saved = [Option<FlexTensor>; 2];

    fn reads(&self, _needs: [bool; 2]) -> [bool; 2] {
        [false; 2]
    }

    fn forward(&self, [x, weight]: [FlexTensor; 2], needs: [bool; 2]) -> (FlexTensor, Self::Saved) {
        let x = flex::contiguous(x);
        let weight = matmul::viewable(weight);
        let view = matmul::view(&weight).expect("the weight was made viewable");
        let projection = if self.tied { view.transpose() } else { view };
        let (loss, dx, dw) = self.blocks(x.storage(), projection, needs);
        let dx = dx.map(|dx| flex::tensor(dx, flex::dims(&x)));
        let dw = dw.map(|dw| flex::tensor(dw, flex::dims(&weight)));
        (flex::tensor(vec![loss as f32], [1]), [dx, dw])
    }

    fn backward(
        &self,
        _inputs: [Option<FlexTensor>; 2],
        saved: Self::Saved,
        grad: FlexTensor,
        _needs: [bool; 2],
    ) -> [Option<FlexTensor>; 2] {
        let factor = flex::contiguous(grad).storage::<f32>()[0];
        saved.map(|gradient| gradient.map(|gradient| flex::scaled(gradient, factor)))
    }
}

/// Loss, and the gradients of the input and of the weight in the weight's own order.
type Computed = (f64, Option<Vec<f32>>, Option<Vec<f32>>);

impl HeadKernel {
    fn blocks(&self, x: &[f32], projection: MatRef<'_, f32>, needs: [bool; 2]) -> Computed {
        let (hidden, vocabulary) = (projection.nrows(), projection.ncols());
        let tokens = self.targets.len();
        let block = (BLOCK / vocabulary.max(1)).max(FEWEST_TOKENS).min(tokens.max(1));
        let mut logits = flex::scratch(block * vocabulary);
        let mut dx = needs[0].then(|| flex::scratch(tokens * hidden));
        let mut dw = needs[1].then(|| vec![0.0; hidden * vocabulary]);
        let mut loss = 0.0;
        for first in (0..tokens).step_by(block) {
            let targets = &self.targets[first..tokens.min(first + block)];
            let count = targets.len();
            let span = first * hidden..(first + count) * hidden;
            let logits = &mut logits[..count * vocabulary];
            let x = matmul::rows(&x[span.clone()], count, hidden);
            let out = matmul::rows_mut(logits, count, vocabulary);
            matmul::product(out, x, projection);
            if needs == [false; 2] {
                loss += rows::losses(logits, targets, &mut vec![0.0; count]);
                continue;
            }
            loss += rows::losses_and_gradients(logits, targets);
            let gradient = matmul::rows(logits, count, vocabulary);
            if let Some(dx) = &mut dx {
                let out = matmul::rows_mut(&mut dx[span], count, hidden);
                matmul::product(out, gradient, projection.transpose());
            }
            if let Some(dw) = &mut dw {
                self.add_weight_gradient(dw, x, gradient);
            }
        }
        (loss, dx, dw)
    }

    fn add_weight_gradient(&self, dw: &mut [f32], x: MatRef<'_, f32>, gradient: MatRef<'_, f32>) {
        let (hidden, vocabulary) = (x.ncols(), gradient.ncols());
        if self.tied {
            let out = matmul::rows_mut(dw, vocabulary, hidden);
            matmul::add_product(out, gradient.transpose(), x);
        } else {
            let out = matmul::rows_mut(dw, hidden, vocabulary);
            matmul::add_product(out, x.transpose(), gradient);
        }
    }
}
