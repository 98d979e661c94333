//! Cross-entropy over given logits.

use std::sync::Arc;

use burn::tensor::{Int, Tensor};
use burn_flex::FlexTensor;

use super::rows;
use super::rows::IGNORE_INDEX;
use crate::kernels::fused::{Kernel, apply1};
use crate::kernels::half_precision::widened;
use crate::kernels::{dispatch, flex};

/// Sums the losses of all tokens whose label is not [`IGNORE_INDEX`].
///
/// Dividing by the number of counted tokens of the whole batch is the caller's part, so that every mesh gets one gradient.
///
/// # Shapes
///
/// `logits` is `[tokens, vocabulary]`, `labels` is `[tokens]`; the result is `[1]`, in `f32` where logits have fewer bits.
pub fn cross_entropy(logits: Tensor<2>, labels: Tensor<1, Int>) -> Tensor<1> {
    let [tokens, vocabulary] = logits.dims();
    assert_eq!(tokens, labels.dims()[0], "every token needs a label");
    if dispatch::has_fused_kernel(&logits.device(), &[logits.dtype()]) {
        let targets = rows::targets(labels, vocabulary).into();
        return apply1(logits, CrossEntropyKernel { targets });
    }
    reference(logits, labels)
}

fn reference(logits: Tensor<2>, labels: Tensor<1, Int>) -> Tensor<1> {
    let logits = widened(logits);
    let [tokens, _] = logits.dims();
    let ignored = labels.clone().equal_elem(IGNORE_INDEX);
    let targets = labels.mask_fill(ignored.clone(), 0).reshape([tokens, 1]);
    let shifted = logits.clone() - logits.detach().max_dim(1);
    let log_total = shifted.clone().exp().sum_dim(1).log();
    let losses = log_total - shifted.gather(1, targets);
    losses.mask_fill(ignored.reshape([tokens, 1]), 0.0).sum()
}

#[derive(Debug, Clone)]
struct CrossEntropyKernel {
    targets: Arc<[Option<usize>]>,
}

impl Kernel<1> for CrossEntropyKernel {
    const NARROWS: bool = false;

    /// The log-sum-exp of each row.
    type Saved = Vec<f32>;

    fn reads(&self, _needs: [bool; 1]) -> [bool; 1] {
        [true]
    }

    fn forward(&self, [logits]: [FlexTensor; 1], _needs: [bool; 1]) -> (FlexTensor, Vec<f32>) {
        let logits = flex::contiguous(logits);
        let mut log_totals = flex::scratch(self.targets.len());
        let loss = rows::losses(logits.storage(), &self.targets, &mut log_totals);
        (flex::tensor(vec![loss as f32], [1]), log_totals)
    }

    fn backward(
        &self,
        [logits]: [Option<FlexTensor>; 1],
        log_totals: Vec<f32>,
        grad: FlexTensor,
        _needs: [bool; 1],
    ) -> [Option<FlexTensor>; 1] {
        let factor = flex::contiguous(grad).storage::<f32>()[0];
        let mut logits = flex::contiguous(logits.expect("the logits were kept"));
        rows::gradients(logits.storage_mut(), &self.targets, &log_totals, factor);
        [Some(logits)]
    }
}
