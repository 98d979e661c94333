//! Products that run while parts of their inputs or outputs travel.
//!
//! A sequence is cut into chunks. While one is multiplied others are under way, so that with
//! hardware that communicates beside computing only a chunk's travel is waited for. The numbers are
//! those of the plain operations, up to the order of sums.
//!
//! | | forward | backward |
//! | --- | --- | --- |
//! | gather and project | chunks of the input arrive while others are multiplied | the input arrives again behind the first product for its gradient; that gradient leaves, chunk by chunk, behind the last product and the gradients of the weights |
//! | project and scatter | chunks of the product leave while others are multiplied | chunks of the gradient arrive while others are multiplied |
//!
//! Where an operation has no kernel it is composed of differentiable collectives, and backward waits
//! for each chunk.
//!
//! # References
//!
//! Wang et al., Overlap Communication with Dependent Computation via Decomposition in Large Deep
//! Learning Models, ASPLOS 2023; the second gather: Reducing Activation Recomputation in Large
//! Transformer Models, arXiv:2205.05198, section 4.2.2.

mod chunks;
mod composed;
mod gather;
mod scatter;

use burn::module::Param;
use burn::tensor::Tensor;

use crate::comm::ProcessGroup;
use crate::comm::differentiable::reduce_scatter;
use crate::kernels;
use crate::nn::Linear;

/// Gathers a split sequence and applies layers to it: `[b, s / n, h]` to `[b, s, o]` each.
///
/// # Communication
///
/// As many all-gathers as chunks, together of the volume of one. Backward as many again for the
/// weights, since only the own part is kept, and as many reduce-scatters.
pub(super) fn all_gather_project(
    x: &Tensor<3>,
    layers: &[&Linear],
    group: &ProcessGroup,
) -> Vec<Tensor<3>> {
    let dtypes = layers.iter().map(|layer| layer.weight.val().dtype());
    let dtypes: Vec<_> = dtypes.chain([x.dtype()]).collect();
    if !kernels::dispatch::has_kernel(&x.device(), &dtypes) {
        return composed::all_gather_project(x, layers, group);
    }
    let weights = layers.iter().map(|layer| {
        let bias = layer.bias.as_ref().map(Param::val);
        (layer.weight.val(), bias)
    });
    gather::all_gather_project(x.clone(), weights.collect(), group)
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
    if !x.dims()[1].is_multiple_of(group.size()) {
        // The plain operation says what is wrong.
        return reduce_scatter(kernels::linear(x, weight, None), 1, group);
    }
    if kernels::dispatch::has_kernel(&x.device(), &[x.dtype(), weight.dtype()]) {
        return scatter::linear_reduce_scatter(x, weight, group);
    }
    composed::linear_reduce_scatter(x, &weight, group)
}
