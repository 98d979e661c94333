//! Results on a GPU against the composed operations in `f32`; skipped where there is no GPU that cuDNN serves.

use burn::tensor::{Device, Distribution, Tensor};
use burn_cubecl::cubecl::cuda::CudaDevice;

use super::*;
use crate::backend::driver::Runner;
use crate::kernels::attention::candidate::{Candidate, choose};
use crate::kernels::attention::{attention_block, attention_block_backward};
use crate::kernels::cuda::cudnn::library;
use crate::kernels::with_reference;
use crate::world::visible_gpus;

/// Of the norm of the expected values: results, probabilities and their gradients are each rounded to 16 bits, of which
/// `bf16` keeps 8 for the number (2^-9 a rounding).
const TOLERANCE: f64 = 1e-2;

/// Returns why nothing can be tested here, if so.
fn reason_to_skip() -> Option<String> {
    if visible_gpus() == 0 {
        return Some("no GPU".to_owned());
    }
    if let Err(reason) = library() {
        return Some(reason.to_owned());
    }
    let gpu = Runner::at(&CubeDevice::Cuda(CudaDevice::new(0)));
    let (major, _) = gpu.call(current_capability).unwrap();
    (major < 9).then(|| format!("capability {major}"))
}

fn distance<const D: usize>(actual: Tensor<D>, expected: Tensor<D>) -> f64 {
    let read = |x: Tensor<D>| -> Vec<f64> { x.cast(DType::F32).into_data().iter().collect() };
    let (actual, expected) = (read(actual), read(expected));
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut actual.iter().zip(&expected).map(|(a, b)| a - b));
    difference / norm(&mut expected.iter().copied())
}

fn compare([q_dims, k_dims]: [[usize; 4]; 2], options: &AttentionOptions, dtype: DType) {
    let device = Device::cuda(0);
    let random = |dims| Tensor::<4>::random(dims, Distribution::Normal(0.0, 1.0), &device);
    let inputs = [q_dims, k_dims, k_dims].map(|dims| random(dims).cast(dtype));
    let grad = random(q_dims).cast(dtype);
    let geometry = Geometry::new(q_dims, k_dims, options.scale(q_dims[3]));
    let chosen = choose(&device, [dtype; 3], &geometry, options);
    assert!(matches!(chosen, Some(Candidate::Cudnn(_))), "cuDNN serves {q_dims:?} {k_dims:?}");

    let [q, k, v] = inputs.clone();
    let (output, totals) = attention_block(q, k, v, options);
    let (o, l, g) = (output.clone(), totals.clone(), grad.clone());
    let gradients = attention_block_backward(inputs.clone(), o, l, g, options);
    let (expected, expected_totals, expected_gradients) = with_reference(|| {
        let inputs = inputs.map(|x| x.cast(DType::F32));
        let [q, k, v] = inputs.clone();
        let (output, totals) = attention_block(q, k, v, options);
        let (o, l, g) = (output.clone(), totals.clone(), grad.cast(DType::F32));
        (output, totals, attention_block_backward(inputs, o, l, g, options))
    });
    let mut distances = vec![distance(output, expected), distance(totals, expected_totals)];
    let pairs = gradients.into_iter().zip(expected_gradients);
    distances.extend(pairs.map(|(actual, expected)| distance(actual, expected)));
    println!("{q_dims:?} {k_dims:?} {dtype:?}: output, log-sum-exps, gradients {distances:.5?}");
    assert!(distances.iter().all(|distance| *distance < TOLERANCE), "{distances:?}");
}

#[test]
fn cudnn_agrees_with_the_composed_operations() {
    if let Some(reason) = reason_to_skip() {
        println!("skipped: {reason}");
        return;
    }
    let causal = AttentionOptions::causal;
    let last = |shift| AttentionOptions { query_offset: shift, ..causal() };
    let rows = [
        ([[2, 300, 8, 64], [2, 300, 8, 64]], AttentionOptions::default()),
        ([[2, 512, 8, 64], [2, 512, 2, 64]], causal()),
        ([[1, 300, 8, 128], [1, 300, 2, 128]], causal()),
        ([[2, 200, 8, 72], [2, 328, 2, 72]], last(128)),
        ([[1, 100, 4, 64], [1, 100, 4, 64]], last(100)),
        ([[1, 64, 4, 256], [1, 64, 4, 256]], causal()),
        ([[1, 256, 4, 64], [1, 256, 4, 64]], AttentionOptions { scale: Some(0.3), ..causal() }),
    ];
    for (dims, options) in rows {
        for dtype in [DType::BF16, DType::F16] {
            compare(dims, &options, dtype);
        }
    }
}
