//! `bf16` and `f16`: the kernels round once, the references accumulate in `f32`, losses are `f32`.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use dream_trainer::kernels::{self, AttentionOptions, RopePositions, RopeTable};

use crate::harness::{Operation, Outcome, assert_close, numbers, run_weighted};
use crate::tolerance::{OPERATION, ROUND_BF16, ROUND_F16};

/// Half-precision types with half the distance between neighbors, relative, and at zero.
const TYPES: [(DType, f64, f64); 2] =
    [(DType::BF16, ROUND_BF16, 0.0), (DType::F16, ROUND_F16, 3.0e-8)];

/// Returns reproducible numbers that both half-precision types hold exactly.
fn coarse(seed: u64, len: usize) -> Vec<f64> {
    numbers(seed, len).into_iter().map(|x| (x * 32.0).round() / 32.0).collect()
}

fn run(inputs: &[Vec<f64>], dtype: DType, operation: Operation) -> Outcome {
    run_weighted(inputs, dtype, &|len| coarse(77, len), operation)
}

/// Asserts that each value is a rounding of the expected one, but for what `f32` loses.
#[track_caller]
fn assert_rounded(what: &str, actual: &[f64], expected: &[f64], roundoff: f64, smallest: f64) {
    assert_eq!(actual.len(), expected.len(), "{what}: length");
    let largest = expected.iter().fold(0.0_f64, |max, x| max.max(x.abs()));
    for (a, b) in actual.iter().zip(expected) {
        let bound = roundoff * b.abs() + OPERATION * largest + smallest;
        assert!((a - b).abs() <= bound, "{what}: {a} is not {b} rounded once");
    }
}

#[track_caller]
fn check(what: &str, sizes: &[usize], operation: Operation) {
    let inputs: Vec<_> = (0u64..).zip(sizes).map(|(i, &len)| coarse(i, len)).collect();
    let expected = run(&inputs, DType::F64, operation);
    for (dtype, roundoff, smallest) in TYPES {
        let what = format!("{what} in {dtype:?}");
        let actual = run(&inputs, dtype, operation);
        assert_rounded(&what, &actual.value, &expected.value, roundoff, smallest);
        // The reference rounds between its steps: scores, weights, products.
        let reference = kernels::with_reference(|| run(&inputs, dtype, operation));
        assert_close(&what, &reference.value, &expected.value, 8.0 * roundoff);
        let gradients = actual.gradients.iter().zip(&reference.gradients);
        for (expected, (actual, reference)) in expected.gradients.iter().zip(gradients) {
            assert_rounded(&format!("{what}: gradient"), actual, expected, roundoff, smallest);
            assert_close(&format!("{what}: gradient"), reference, expected, 8.0 * roundoff);
        }
    }
}

fn flatten<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    let len = x.shape().num_elements();
    x.reshape([len])
}

#[test]
fn layers_round_once() {
    check("linear", &[7 * 20, 20 * 9, 9], &|x| {
        let weight = x[1].clone().reshape([20, 9]);
        flatten(kernels::linear(x[0].clone().reshape([7, 20]), weight, Some(x[2].clone())))
    });
    check("linear of a transposed weight", &[7 * 20, 20 * 9], &|x| {
        let weight = x[1].clone().reshape([9, 20]).transpose();
        flatten(kernels::linear(x[0].clone().reshape([7, 20]), weight, None))
    });
    check("rms_norm", &[9 * 24, 24], &|x| {
        flatten(kernels::rms_norm(x[0].clone().reshape([9, 24]), x[1].clone(), 1e-5))
    });
    check("layer_norm", &[9 * 24, 24, 24], &|x| {
        let bias = Some(x[2].clone());
        flatten(kernels::layer_norm(x[0].clone().reshape([9, 24]), x[1].clone(), bias, 1e-5))
    });
    check("swiglu", &[200, 200], &|x| kernels::swiglu(x[0].clone(), x[1].clone()));
    check("gelu", &[200], &|x| kernels::gelu(x[0].clone()));
    // 300 tokens look up one of three rows: a sum that half precision could not hold.
    let ids: Vec<i64> = (0..300).map(|i| i * i % 3).collect();
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [3, 100]), &Device::flex());
    check("embedding", &[3 * 8], &|x| {
        flatten(kernels::embedding(x[0].clone().reshape([3, 8]), ids.clone()))
    });
}

#[test]
fn attention_rounds_once() {
    check("attention", &[2 * 11 * 4 * 8, 2 * 11 * 2 * 8, 2 * 11 * 2 * 8], &|x| {
        let shaped = |i: usize, heads| x[i].clone().reshape([2, 11, heads, 8]) * 0.5;
        let options = AttentionOptions::causal();
        flatten(kernels::attention(shaped(0, 4), shaped(1, 2), shaped(2, 2), &options))
    });
}

#[test]
fn angles_keep_their_precision() {
    // In `bf16` itself, the cosine of position 1000 would be that of another position.
    let device = Device::flex();
    check("rope", &[2 * 3 * 2 * 8], &|x| {
        let x = x[0].clone().reshape([2, 3, 2, 8]);
        let table = RopeTable::new(8, 1003, 10_000.0, &device);
        let dtype = if x.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
        let table = RopeTable { cos: table.cos.cast(dtype), sin: table.sin.cast(dtype) };
        flatten(kernels::rope(x, &table, &RopePositions::Offset(1000)))
    });
}

#[test]
fn losses_are_not_rounded() {
    let labels: Vec<i64> =
        (0..40).map(|i| if i % 7 == 0 { kernels::IGNORE_INDEX } else { i % 30 }).collect();
    let labels = Tensor::<1, Int>::from_data(TensorData::new(labels, [40]), &Device::flex());
    let losses: [(&str, &[usize], Operation); 3] = [
        ("cross_entropy", &[40 * 30], &|x| {
            kernels::cross_entropy(x[0].clone().reshape([40, 30]), labels.clone())
        }),
        ("linear_cross_entropy", &[40 * 6, 6 * 30], &|x| {
            let weight = x[1].clone().reshape([6, 30]);
            kernels::linear_cross_entropy(x[0].clone().reshape([40, 6]), weight, labels.clone())
        }),
        ("tied_linear_cross_entropy", &[40 * 6, 30 * 6], &|x| {
            let table = x[1].clone().reshape([30, 6]);
            kernels::tied_linear_cross_entropy(x[0].clone().reshape([40, 6]), table, labels.clone())
        }),
    ];
    for (what, sizes, operation) in losses {
        check(what, sizes, operation);
        let inputs: Vec<_> = (0u64..).zip(sizes).map(|(i, &len)| coarse(i, len)).collect();
        let expected = run(&inputs, DType::F64, operation).value[0];
        let actual = run(&inputs, DType::BF16, operation).value[0];
        assert!((actual - expected).abs() <= OPERATION * expected, "{what}: {actual}, {expected}");
    }
}

#[test]
fn a_result_takes_the_type_of_the_first_operand() {
    let device = Device::flex();
    let x = Tensor::<2>::ones([2, 4], (&device, DType::BF16));
    let scale = Tensor::<1>::ones([4], (&device, DType::F32));
    let weight = Tensor::<2>::ones([4, 3], (&device, DType::F32));
    let results = || {
        [
            kernels::rms_norm(x.clone(), scale.clone(), 1e-5).dtype(),
            kernels::linear(x.clone(), weight.clone(), None).dtype(),
        ]
    };
    assert_eq!(results(), [DType::BF16; 2]);
    assert_eq!(kernels::with_reference(results), [DType::BF16; 2]);
    let product = kernels::linear_f32(x.clone(), weight.clone().cast(DType::BF16));
    assert_eq!((product.dtype(), product.into_data().iter::<f64>().sum()), (DType::F32, 24.0));
}
