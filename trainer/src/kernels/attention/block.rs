//! Attention to a block of keys, and its backward, for callers that combine blocks themselves.
//!
//! Context parallelism sends blocks of keys and values from rank to rank. Each call attends to one block; the log-sum-exps
//! say how to weigh the blocks' outputs, and the combined ones make every block's backward exact.

use burn::tensor::Tensor;
use burn_flex::FlexTensor;

#[cfg(feature = "cuda")]
use super::candidate;
use super::mask::Mask;
use super::operation::Geometry;
use super::options::AttentionOptions;
use super::{composed, flex_backward, flex_forward};
use crate::kernels::{dispatch, flex};

/// Attends to one block of keys; returns the output and the log-sum-exp of each query's scores.
///
/// Outputs of several blocks combine as their average weighted by `exp(log_total)`; a query that sees no key of the block
/// has a zero output and a log-sum-exp of negative infinity. All tensors are plain ones, outside autodiff.
///
/// # Shapes
///
/// As for [`attention`](super::attention); the log-sum-exps are `[batch, heads, queries]`.
///
/// # Panics
///
/// When the shapes do not agree.
pub fn attention_block(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    options: &AttentionOptions,
) -> (Tensor<4>, Tensor<3>) {
    options.check(q.dims(), k.dims(), v.dims());
    let (shape, dtypes) = (q.dims(), [q.dtype(), k.dtype(), v.dtype()]);
    let geometry = Geometry::new(shape, k.dims(), options.scale(shape[3]));
    #[cfg(feature = "cuda")]
    if let Some(candidate) = candidate::choose(&q.device(), dtypes, &geometry, options) {
        return candidate.forward([q, k, v]);
    }
    if !dispatch::has_kernel(&q.device(), &dtypes) {
        return composed::forward(&q, &k, &v, options);
    }
    let mask = Mask::new(options, &geometry);
    let inputs = [q, k, v].map(|x| flex::contiguous(flex::from_tensor(x)));
    let [q, k, v] = inputs.each_ref().map(FlexTensor::storage::<f32>);
    let (output, log_totals) = flex_forward::forward(&geometry, &mask, q, k, v);
    let log_totals = flex::tensor(log_totals, [shape[0], shape[2], shape[1]]);
    (flex::into_tensor(flex::tensor(output, shape)), flex::into_tensor(log_totals))
}

/// Returns what one block of keys contributes to the gradients of queries, keys and values.
///
/// `output` and `log_totals` are the combined ones of all blocks and `grad` is the gradient of that output.
///
/// # Shapes
///
/// `inputs` are queries, keys and values; all shapes are those of [`attention_block`].
///
/// # Panics
///
/// When the shapes do not agree.
pub fn attention_block_backward(
    inputs: [Tensor<4>; 3],
    output: Tensor<4>,
    log_totals: Tensor<3>,
    grad: Tensor<4>,
    options: &AttentionOptions,
) -> [Tensor<4>; 3] {
    let shapes = inputs.each_ref().map(Tensor::dims);
    let [of_q, of_k, of_v] = shapes;
    options.check(of_q, of_k, of_v);
    assert_eq!((output.dims(), grad.dims()), (of_q, of_q), "outputs must have the queries' shape");
    assert_eq!(log_totals.dims(), [of_q[0], of_q[2], of_q[1]], "every query and head needs a sum");
    let dtypes = inputs.each_ref().map(Tensor::dtype);
    let geometry = Geometry::new(of_q, of_k, options.scale(of_q[3]));
    #[cfg(feature = "cuda")]
    if let Some(candidate) = candidate::choose(&grad.device(), dtypes, &geometry, options) {
        return candidate.backward(inputs, output, log_totals, grad);
    }
    if !dispatch::has_kernel(&grad.device(), &dtypes) {
        return composed::backward(inputs, &output, &log_totals, &grad, options);
    }
    let mask = Mask::new(options, &geometry);
    let inputs = inputs.map(|x| flex::contiguous(flex::from_tensor(x)));
    let [output, grad] = [output, grad].map(|x| flex::contiguous(flex::from_tensor(x)));
    let log_totals = flex::contiguous(flex::from_tensor(log_totals));
    let [q, k, v] = inputs.each_ref().map(FlexTensor::storage::<f32>);
    let forward = flex_backward::Forward {
        q,
        k,
        v,
        output: output.storage(),
        log_totals: log_totals.storage(),
        grad: grad.storage(),
    };
    let mut shapes = shapes.into_iter();
    flex_backward::backward(&geometry, &mask, &forward).map(|values| {
        let shape = shapes.next().expect("each input has a gradient");
        flex::into_tensor(flex::tensor(values, shape))
    })
}
