//! Linear, norms, activations, rotary embedding, token embedding.

use burn::tensor::{Device, Int, Tensor, TensorData};
use dream_trainer::kernels::{self, RopePositions, RopeTable};
use proptest::prelude::*;

use crate::harness::{Operation, check, check_differences, numbers, read};
use crate::tolerance::OPERATION;

#[track_caller]
fn check_layer(what: &str, sizes: &[usize], operation: Operation) {
    let inputs: Vec<_> = (0u64..).zip(sizes).map(|(i, &len)| numbers(i, len)).collect();
    check(what, &inputs, OPERATION, operation);
}

fn flatten<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    let len = x.shape().num_elements();
    x.reshape([len])
}

proptest! {
    #![proptest_config(crate::harness::cases(12))]

    #[test]
    fn linear_matches_f64(rows in 1usize..40, inputs in 1usize..50, outputs in 1usize..50) {
        check_layer("linear", &[2 * rows * inputs, inputs * outputs, outputs], &|x| {
            let input = x[0].clone().reshape([2, rows, inputs]);
            let weight = x[1].clone().reshape([inputs, outputs]);
            flatten(kernels::linear(input, weight, Some(x[2].clone())))
        });
        check_layer("linear of a transposed weight", &[rows * inputs, inputs * outputs], &|x| {
            let weight = x[1].clone().reshape([outputs, inputs]).transpose();
            flatten(kernels::linear(x[0].clone().reshape([rows, inputs]), weight, None))
        });
    }

    #[test]
    fn norms_match_f64(rows in 1usize..70, h in 6usize..70) {
        check_layer("rms_norm", &[rows * h, h], &|x| {
            flatten(kernels::rms_norm(x[0].clone().reshape([rows, h]), x[1].clone(), 1e-5))
        });
        check_layer("layer_norm", &[rows * h, h, h], &|x| {
            let bias = Some(x[2].clone());
            flatten(kernels::layer_norm(x[0].clone().reshape([1, rows, h]), x[1].clone(), bias, 1e-5))
        });
        check_layer("layer_norm without bias", &[rows * h, h], &|x| {
            flatten(kernels::layer_norm(x[0].clone().reshape([rows, h]), x[1].clone(), None, 1e-5))
        });
    }

    #[test]
    fn projections_of_one_input_match_f64(
        rows in 1usize..40, inputs in 1usize..40, widths in [1usize..40, 1..40, 1..40],
    ) {
        let [a, b, c] = widths;
        check_layer("project", &[rows * inputs, inputs * a, inputs * b, inputs * c, b], &|x| {
            let weight = |i: usize, width| x[i].clone().reshape([inputs, width]);
            let layers = vec![
                (weight(1, a), None),
                (weight(2, b), Some(x[4].clone())),
                (x[3].clone().reshape([c, inputs]).transpose(), None),
            ];
            let outputs = kernels::project(x[0].clone().reshape([rows, inputs]), layers);
            Tensor::cat(outputs.into_iter().map(flatten).collect(), 0)
        });
    }

    #[test]
    fn norms_of_sums_match_f64(rows in 1usize..70, h in 6usize..70) {
        let both = |outputs: [Tensor<2>; 2]| Tensor::cat(outputs.map(flatten).to_vec(), 0);
        let matrix = |x: &Tensor<1>| x.clone().reshape([rows, h]);
        check_layer("add_rms_norm", &[rows * h, rows * h, h], &|x| {
            both(kernels::add_rms_norm(matrix(&x[0]), matrix(&x[1]), x[2].clone(), 1e-5))
        });
        check_layer("add_layer_norm", &[rows * h, rows * h, h, h], &|x| {
            let bias = Some(x[3].clone());
            both(kernels::add_layer_norm(matrix(&x[0]), matrix(&x[1]), x[2].clone(), bias, 1e-5))
        });
    }

    #[test]
    fn activations_match_f64(len in 1usize..3000) {
        check_layer("swiglu", &[len, len], &|x| kernels::swiglu(x[0].clone() * 4.0, x[1].clone()));
        check_layer("gelu", &[len], &|x| kernels::gelu(x[0].clone() * 3.0));
    }

    #[test]
    fn rope_matches_f64(sequence in 1usize..20, heads in 1usize..4, half in 1usize..20, offset in 0usize..5) {
        let table = RopeTable::new(2 * half, 32, 10_000.0, &Device::flex());
        check_layer("rope", &[2 * sequence * heads * half * 2], &|x| {
            let x = x[0].clone().reshape([2, sequence, heads, 2 * half]);
            let table = RopeTable { cos: table.cos.clone().cast(x.dtype()), sin: table.sin.clone().cast(x.dtype()) };
            flatten(kernels::rope(x, &table, &RopePositions::Offset(offset)))
        });
    }
}

#[test]
fn references_match_finite_differences() {
    let layers: [(&str, &[usize], Operation); 9] = [
        ("project", &[12, 20, 8, 2], &|x| {
            let layers = vec![
                (x[1].clone().reshape([4, 5]), None),
                (x[2].clone().reshape([4, 2]), Some(x[3].clone())),
            ];
            let outputs = kernels::project(x[0].clone().reshape([3, 4]), layers);
            Tensor::cat(outputs.into_iter().map(flatten).collect(), 0)
        }),
        ("add_rms_norm", &[12, 12, 4], &|x| {
            let [a, b] = [0, 1].map(|i: usize| x[i].clone().reshape([3, 4]));
            let outputs = kernels::add_rms_norm(a, b, x[2].clone(), 1e-5);
            Tensor::cat(outputs.map(flatten).to_vec(), 0)
        }),
        ("add_layer_norm", &[12, 12, 4, 4], &|x| {
            let [a, b] = [0, 1].map(|i: usize| x[i].clone().reshape([3, 4]));
            let outputs = kernels::add_layer_norm(a, b, x[2].clone(), Some(x[3].clone()), 1e-5);
            Tensor::cat(outputs.map(flatten).to_vec(), 0)
        }),
        ("linear", &[12, 20, 5], &|x| {
            let weight = x[1].clone().reshape([4, 5]);
            flatten(kernels::linear(x[0].clone().reshape([3, 4]), weight, Some(x[2].clone())))
        }),
        ("rms_norm", &[12, 4], &|x| {
            flatten(kernels::rms_norm(x[0].clone().reshape([3, 4]), x[1].clone(), 1e-5))
        }),
        ("layer_norm", &[12, 4, 4], &|x| {
            let bias = Some(x[2].clone());
            flatten(kernels::layer_norm(x[0].clone().reshape([3, 4]), x[1].clone(), bias, 1e-5))
        }),
        ("swiglu", &[9, 9], &|x| kernels::swiglu(x[0].clone(), x[1].clone())),
        ("gelu", &[9], &|x| kernels::gelu(x[0].clone())),
        ("embedding", &[12], &|x| {
            let ids = Tensor::<2, Int>::from_data([[1, 1, 0]], &Device::flex());
            flatten(kernels::embedding(x[0].clone().reshape([3, 4]), ids))
        }),
    ];
    for (what, sizes, operation) in layers {
        let inputs: Vec<_> = (0u64..).zip(sizes).map(|(i, &len)| numbers(i, len)).collect();
        check_differences(what, &inputs, operation);
    }
}

#[test]
fn outputs_that_the_loss_does_not_use_pass_no_gradient() {
    let sizes = [20, 12, 8, 4];
    check_layer("one of two projections", &sizes, &|x| {
        let layers = vec![
            (x[1].clone().reshape([4, 3]), None),
            (x[2].clone().reshape([4, 2]), Some(x[3].clone().narrow(0, 0, 2))),
        ];
        flatten(kernels::project(x[0].clone().reshape([5, 4]), layers).remove(1))
    });
    for index in 0..2 {
        check_layer("sum or its norm", &[20, 20, 4], &|x| {
            let [a, b] = [0, 1].map(|i: usize| x[i].clone().reshape([5, 4]));
            let [sum, norm] = kernels::add_rms_norm(a, b, x[2].clone(), 1e-5);
            flatten(if index == 0 { sum } else { norm })
        });
    }
}

#[test]
fn rope_rotates_half_against_half() {
    let device = Device::flex();
    let table = RopeTable::new(4, 8, 100.0, &device);
    let x =
        Tensor::<4>::from_data(TensorData::new(vec![1.0f32, 2.0, 3.0, 4.0], [1, 1, 1, 4]), &device);
    let rotated = read(kernels::rope(x, &table, &RopePositions::Offset(3)));
    // Pairs are (1, 3) at three radians and (2, 4) at 0.3 radians.
    let expected = [
        3.0f64.cos() - 3.0 * 3.0f64.sin(),
        2.0 * 0.3f64.cos() - 4.0 * 0.3f64.sin(),
        3.0 * 3.0f64.cos() + 3.0f64.sin(),
        4.0 * 0.3f64.cos() + 2.0 * 0.3f64.sin(),
    ];
    for (actual, expected) in rotated.iter().zip(expected) {
        assert!((actual - expected).abs() < OPERATION, "{actual} against {expected}");
    }
}

#[test]
fn rope_takes_explicit_positions() {
    let device = Device::flex();
    let table = RopeTable::new(6, 8, 10_000.0, &device);
    let positions = Tensor::<2, Int>::from_data([[3, 0, 7], [1, 1, 2]], &device);
    check_layer("rope at positions", &[2 * 3 * 2 * 6], &|x| {
        let x = x[0].clone().reshape([2, 3, 2, 6]);
        let dtype = x.dtype();
        let table =
            RopeTable { cos: table.cos.clone().cast(dtype), sin: table.sin.clone().cast(dtype) };
        flatten(kernels::rope(x, &table, &RopePositions::PerToken(positions.clone())))
    });
}

#[test]
fn embedding_adds_the_gradients_of_repeated_tokens() {
    let ids = Tensor::<2, Int>::from_data([[4, 0, 4, 4], [2, 6, 0, 4]], &Device::flex());
    check_layer("embedding", &[7 * 5], &|x| {
        flatten(kernels::embedding(x[0].clone().reshape([7, 5]), ids.clone()))
    });
}

#[test]
fn large_shapes_use_every_task() {
    check_layer("large rms_norm", &[700 * 96, 96], &|x| {
        flatten(kernels::rms_norm(x[0].clone().reshape([700, 96]), x[1].clone(), 1e-5))
    });
    check_layer("large add_rms_norm", &[700 * 96, 700 * 96, 96], &|x| {
        let [a, b] = [0, 1].map(|i: usize| x[i].clone().reshape([700, 96]));
        let [sum, norm] = kernels::add_rms_norm(a, b, x[2].clone(), 1e-5);
        flatten(sum) + flatten(norm)
    });
    check_layer("large project", &[1200 * 40, 40 * 90, 40 * 50], &|x| {
        let layers =
            vec![(x[1].clone().reshape([40, 90]), None), (x[2].clone().reshape([40, 50]), None)];
        let outputs = kernels::project(x[0].clone().reshape([1200, 40]), layers);
        Tensor::cat(outputs.into_iter().map(flatten).collect(), 0)
    });
    check_layer("large swiglu", &[40_000, 40_000], &|x| {
        kernels::swiglu(x[0].clone(), x[1].clone())
    });
}

#[test]
fn extreme_activations_stay_finite_and_not_a_number_shows() {
    let device = Device::flex();
    let x = Tensor::<1>::from_data([-1e30f32, -200.0, -88.0, 88.0, 200.0, 1e30], &device);
    let gated = read(kernels::swiglu(x.clone(), Tensor::ones([6], &device)));
    let smooth = read(kernels::gelu(x));
    for values in [gated, smooth] {
        assert!(values.iter().all(|v| v.is_finite()), "{values:?}");
        assert!(values[0].abs() < 1e-5 && (values[5] - 1e30f64).abs() < 1e24, "{values:?}");
    }
    let nan = Tensor::<1>::from_data([f32::NAN], &device);
    assert!(read(kernels::swiglu(nan.clone(), nan.clone()))[0].is_nan());
    assert!(read(kernels::gelu(nan))[0].is_nan());
}
