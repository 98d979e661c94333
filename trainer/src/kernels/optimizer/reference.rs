//! Optimizer steps composed of tensor operations.

use burn::tensor::Tensor;

use super::hyper::{AdamHyper, SgdHyper};

pub(super) fn adamw(
    param: Tensor<1>,
    grad: Tensor<1>,
    exp_avg: Tensor<1>,
    exp_avg_sq: Tensor<1>,
    hyper: &AdamHyper,
) -> (Tensor<1>, Tensor<1>, Tensor<1>) {
    let mut grad = grad * hyper.grad_scale;
    let param = if hyper.decoupled {
        param * (1.0 - hyper.lr * hyper.weight_decay)
    } else {
        grad = grad + param.clone() * hyper.weight_decay;
        param
    };
    let [correction1, correction2] = hyper.bias_corrections();
    let exp_avg = exp_avg * hyper.beta1 + grad.clone() * (1.0 - hyper.beta1);
    let exp_avg_sq = exp_avg_sq * hyper.beta2 + grad.clone() * grad * (1.0 - hyper.beta2);
    let denominator = exp_avg_sq.clone().sqrt() / correction2.sqrt() + hyper.eps;
    let param = param - exp_avg.clone() / denominator * (hyper.lr / correction1);
    (param, exp_avg, exp_avg_sq)
}

pub(super) fn sgd(
    param: Tensor<1>,
    grad: Tensor<1>,
    momentum_buffer: Option<Tensor<1>>,
    hyper: &SgdHyper,
) -> (Tensor<1>, Option<Tensor<1>>) {
    let grad = grad * hyper.grad_scale + param.clone() * hyper.weight_decay;
    if hyper.momentum == 0.0 {
        return (param - grad * hyper.lr, None);
    }
    let buffer = match momentum_buffer {
        Some(buffer) => buffer * hyper.momentum + grad.clone() * (1.0 - hyper.dampening),
        None => grad.clone(),
    };
    let update =
        if hyper.nesterov { grad + buffer.clone() * hyper.momentum } else { buffer.clone() };
    (param - update * hyper.lr, Some(buffer))
}
