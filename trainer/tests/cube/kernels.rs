//! The fused operations as shaders: values and gradients against `f64` on the CPU.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use dream_trainer::kernels::{
    self, AdamHyper, AttentionOptions, IGNORE_INDEX, RopePositions, RopeTable,
};

use crate::harness::{assert_close, numbers, read};
use crate::place::device;
use crate::tolerance::SHADER;

/// A differentiable function of flat inputs, on the device they live on.
type Operation = fn(&[Tensor<1>]) -> Tensor<1>;

fn flat(values: &[f32], dtype: DType, device: &Device) -> Tensor<1> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), (device, dtype))
}

/// Returns the value and the gradients of a product with fixed numbers.
fn run(inputs: &[Vec<f32>], dtype: DType, place: &Device, operation: Operation) -> Vec<Vec<f64>> {
    let place = place.clone().autodiff();
    let leaves: Vec<_> =
        inputs.iter().map(|values| flat(values, dtype, &place).require_grad()).collect();
    let output = operation(&leaves);
    let value = read(output.clone().inner());
    let mut grads = (output * flat(&numbers(77, value.len()), dtype, &place)).sum().backward();
    let gradients = leaves.iter().map(|leaf| read(leaf.grad_remove(&mut grads).unwrap()));
    std::iter::once(value).chain(gradients).collect()
}

fn check(name: &str, sizes: &[usize], operation: Operation) {
    let inputs: Vec<_> = sizes.iter().zip(1..).map(|(len, seed)| numbers(seed, *len)).collect();
    let expected = run(&inputs, DType::F64, &Device::flex(), operation);
    let actual = run(&inputs, DType::F32, &device(), operation);
    for (part, (actual, expected)) in actual.iter().zip(&expected).enumerate() {
        let what = if part == 0 { "value".into() } else { format!("gradient {}", part - 1) };
        assert_close(&format!("{name}: {what}"), actual, expected, SHADER);
    }
}

fn flatten<const D: usize>(tensor: Tensor<D>) -> Tensor<1> {
    let len = tensor.shape().num_elements();
    tensor.reshape([len])
}

fn labels(values: &[i64], like: &Tensor<1>) -> Tensor<1, Int> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), &like.device().inner())
}

#[test]
fn layers_equal_the_reference() {
    check("rms_norm", &[5 * 12, 12], |x| {
        flatten(kernels::rms_norm(x[0].clone().reshape([5, 12]), x[1].clone(), 1e-5))
    });
    check("layer_norm", &[5 * 12, 12, 12], |x| {
        let (weight, bias) = (x[1].clone(), Some(x[2].clone()));
        flatten(kernels::layer_norm(x[0].clone().reshape([5, 12]), weight, bias, 1e-5))
    });
    check("swiglu", &[37, 37], |x| kernels::swiglu(x[0].clone(), x[1].clone()));
    check("gelu", &[37], |x| kernels::gelu(x[0].clone()));
    check("rope", &[2 * 6 * 3 * 8], |x| {
        let table = RopeTable::new(8, 16, 10_000.0, &x[0].device().inner());
        let x = x[0].clone().reshape([2, 6, 3, 8]);
        flatten(kernels::rope(x, &table, &RopePositions::Offset(2)))
    });
    check("embedding", &[7 * 4], |x| {
        let ids = labels(&[4, 0, 4, 4, 2, 6, 0, 4], &x[0]).reshape([2, 4]);
        flatten(kernels::embedding(x[0].clone().reshape([7, 4]), ids))
    });
}

fn attention(x: &[Tensor<1>], options: &AttentionOptions) -> Tensor<1> {
    let (q, kv) = ([2, 6, 4, 8], [2, 6, 2, 8]);
    let of = |i: usize, shape: [usize; 4]| x[i].clone().reshape(shape);
    flatten(kernels::attention(of(0, q), of(1, kv), of(2, kv), options))
}

#[test]
fn attention_equals_the_reference_with_every_mask() {
    let sizes = [2 * 6 * 4 * 8, 2 * 6 * 2 * 8, 2 * 6 * 2 * 8];
    check("full attention", &sizes, |x| attention(x, &AttentionOptions::default()));
    check("causal attention", &sizes, |x| attention(x, &AttentionOptions::causal()));
    check("windows within documents", &sizes, |x| {
        let documents = labels(&[0, 0, 0, 1, 1, 1, 0, 1, 1, 1, 1, 2], &x[0]).reshape([2, 6]);
        let options = AttentionOptions {
            window: Some(2),
            documents: Some(documents),
            ..AttentionOptions::causal()
        };
        attention(x, &options)
    });
}

#[test]
fn losses_equal_the_reference_and_leave_out_what_is_ignored() {
    check("cross_entropy", &[5 * 9], |x| {
        let ids = labels(&[3, 0, IGNORE_INDEX, 8, 1], &x[0]);
        kernels::cross_entropy(x[0].clone().reshape([5, 9]), ids)
    });
    check("linear_cross_entropy", &[5 * 4, 4 * 9], |x| {
        let ids = labels(&[3, 0, IGNORE_INDEX, 8, 1], &x[0]);
        kernels::linear_cross_entropy(
            x[0].clone().reshape([5, 4]),
            x[1].clone().reshape([4, 9]),
            ids,
        )
    });
}

#[test]
fn optimizer_passes_equal_those_of_the_cpu() {
    let hyper = AdamHyper {
        lr: 1e-2,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
        decoupled: true,
        step: 3,
        grad_scale: 0.5,
    };
    let step = |place: &Device| {
        let of = |seed, scale: f32| {
            let values: Vec<f32> = numbers(seed, 1000).iter().map(|v| v * scale).collect();
            flat(&values, DType::F32, place)
        };
        let second = of(4, 1.0);
        let (param, first, second) = kernels::adamw_step(
            of(1, 1.0),
            of(2, 1.0),
            of(3, 0.1),
            second.clone() * second,
            &hyper,
        );
        [read(param), read(first), read(second)]
    };
    for (actual, expected) in step(&device()).iter().zip(&step(&Device::flex())) {
        assert_close("AdamW", actual, expected, SHADER);
    }
    let squares = |place: &Device| {
        let gradients = [1, 2, 3].map(|seed| flat(&numbers(seed, 1000), DType::F32, place));
        kernels::sums_of_squares(&gradients.each_ref())
    };
    assert_close("squares", &squares(&device()), &squares(&Device::flex()), SHADER);
}
