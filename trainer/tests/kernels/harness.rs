//! Runs an operation in `f32` with its kernel and in `f64` with the reference, and compares values and gradients.

use burn::tensor::{DType, Device, Tensor, TensorData};
use dream_trainer::kernels;

/// A differentiable function of flat inputs.
pub(crate) type Operation<'a> = &'a (dyn Fn(&[Tensor<1>]) -> Tensor<1> + Sync);

/// The value of an operation and the gradients of its inputs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) value: Vec<f64>,
    pub(crate) gradients: Vec<Vec<f64>>,
}

/// Returns `len` reproducible numbers between -2 and 2 that `f32` holds exactly.
pub(crate) fn numbers(seed: u64, len: usize) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x1234_5678);
    (0..len)
        .map(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^= z >> 31;
            f64::from(((z >> 40) as f64 / f64::from(1u32 << 24)) as f32) * 4.0 - 2.0
        })
        .collect()
}

/// Makes a flat tensor of the given element type.
pub(crate) fn flat(values: &[f64], dtype: DType, device: &Device) -> Tensor<1> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), (device, dtype))
}

/// Reads a tensor as `f64`.
pub(crate) fn read<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.into_data().iter::<f64>().collect()
}

/// Runs an operation and the backward of its product with fixed numbers.
pub(crate) fn run(inputs: &[Vec<f64>], dtype: DType, operation: Operation) -> Outcome {
    run_weighted(inputs, dtype, &|len| numbers(77, len), operation)
}

/// Runs an operation and the backward of its product with the numbers of `weigh`.
pub(crate) fn run_weighted(
    inputs: &[Vec<f64>],
    dtype: DType,
    weigh: &dyn Fn(usize) -> Vec<f64>,
    operation: Operation,
) -> Outcome {
    let device = Device::flex().autodiff();
    let leaves: Vec<_> =
        inputs.iter().map(|values| flat(values, dtype, &device).require_grad()).collect();
    let output = operation(&leaves);
    let value = read(output.clone().inner());
    let weights = flat(&weigh(value.len()), output.dtype(), &device);
    let mut grads = (output * weights).sum().backward();
    let gradients = leaves
        .iter()
        .zip(inputs)
        .map(|(leaf, values)| {
            leaf.grad_remove(&mut grads).map_or_else(|| vec![0.0; values.len()], read)
        })
        .collect();
    Outcome { value, gradients }
}

/// Asserts that two vectors agree relative to the norm of the expected one.
#[track_caller]
pub(crate) fn assert_close(what: &str, actual: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(actual.len(), expected.len(), "{what}: length");
    assert!(expected.iter().all(|v| v.is_finite()), "{what}: the expected values are finite");
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let error = norm(&mut actual.iter().zip(expected).map(|(a, b)| a - b));
    let scale = norm(&mut expected.iter().copied());
    assert!(error <= tolerance * scale + 1e-30, "{what}: error {error:e} against norm {scale:e}");
}

/// Checks values and gradients of the kernel, with every instruction set of the machine, against the `f64` reference, and
/// that a second run repeats every bit.
#[track_caller]
pub(crate) fn check(what: &str, inputs: &[Vec<f64>], tolerance: f64, operation: Operation) {
    let expected = run(inputs, DType::F64, operation);
    for implementation in kernels::implementations() {
        let twice = || [(); 2].map(|()| run(inputs, DType::F32, operation));
        let [actual, again] =
            kernels::with_implementation(implementation, twice).expect("the machine has it");
        let what = format!("{what} by {implementation}");
        assert_close(&format!("{what}: value"), &actual.value, &expected.value, tolerance);
        for (i, (a, b)) in actual.gradients.iter().zip(&expected.gradients).enumerate() {
            assert_close(&format!("{what}: gradient {i}"), a, b, tolerance);
        }
        assert_eq!(actual, again, "{what}: every bit repeats");
    }
    let reference = kernels::with_reference(|| run(inputs, DType::F32, operation));
    assert_close(&format!("{what}: f32 reference"), &reference.value, &expected.value, 1e-5);
}

/// Checks the gradients of the `f64` reference against central differences at some elements of each input.
#[track_caller]
pub(crate) fn check_differences(what: &str, inputs: &[Vec<f64>], operation: Operation) {
    let analytic = run(inputs, DType::F64, operation).gradients;
    let device = Device::flex();
    let loss = |inputs: &[Vec<f64>]| -> f64 {
        let tensors: Vec<_> = inputs.iter().map(|v| flat(v, DType::F64, &device)).collect();
        let value = read(operation(&tensors));
        value.iter().zip(numbers(77, value.len())).map(|(a, b)| a * b).sum()
    };
    for (i, gradient) in analytic.iter().enumerate() {
        for j in (0..gradient.len()).step_by(1 + gradient.len() / 5) {
            let mut moved = inputs.to_vec();
            moved[i][j] += 1e-5;
            let above = loss(&moved);
            moved[i][j] -= 2e-5;
            let difference = (above - loss(&moved)) / 2e-5;
            let scale = gradient[j].abs().max(1.0);
            assert!(
                (difference - gradient[j]).abs() < 1e-6 * scale,
                "{what}: input {i} element {j}: {difference} against {}",
                gradient[j]
            );
        }
    }
}

/// Draws `cases` random shapes, the same ones in every run: a shape that misses a tolerance by its
/// conditioning is then found when the test is written, not when it happens to be drawn.
pub(crate) fn cases(cases: u32) -> proptest::test_runner::Config {
    proptest::test_runner::Config {
        cases,
        failure_persistence: None,
        rng_seed: proptest::test_runner::RngSeed::Fixed(42),
        ..proptest::test_runner::Config::default()
    }
}
