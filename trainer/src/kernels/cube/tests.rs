//! What the tests of the kernels share, and the tests of what the kernels share.
#![expect(unsafe_code, reason = "a launch without bounds checks answers for its indices itself")]

use burn::backend::ops::{FloatTensorOps, IntTensorOps};
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{DType, Shape, TensorData};
use burn_cubecl::ops::into_data_sync;
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{CubeBackend, CubeDevice};
use cubecl::prelude::*;

use super::{Highest, Sum, Team, combine, vector_size};

/// Of the norm of the expected values, in `f32`.
pub(crate) const TOLERANCE: f64 = 1e-6;

/// Half-precision results: one rounding, half the distance between neighbors.
pub(crate) fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::BF16 => 0.003_906_25,
        DType::F16 => 0.000_488_281_25,
        _ => TOLERANCE,
    }
}

/// Returns the element types that the device computes with.
pub(crate) fn dtypes() -> Vec<DType> {
    let device = CubeDevice::default();
    let all = [DType::F32, DType::F16, DType::BF16];
    all.into_iter().filter(|dtype| CubeBackend::supports_dtype(&device, *dtype)).collect()
}

/// Returns reproducible numbers in `[-scale, scale)` that the element type represents.
pub(crate) fn numbers(seed: u64, len: usize, scale: f64, dtype: DType) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f64 / (1u64 << 23) as f64 - 1.0) * scale
    };
    let values: Vec<f64> = (0..len).map(|_| next()).collect();
    TensorData::new(values, [len]).convert_dtype(dtype).iter::<f64>().collect()
}

/// Puts numbers on the device.
pub(crate) fn floats(values: &[f64], shape: impl Into<Shape>, dtype: DType) -> CubeTensor {
    let data = TensorData::new(values.to_vec(), shape.into()).convert_dtype(dtype);
    CubeBackend::float_from_data(data, &CubeDevice::default())
}

/// Puts integers on the device.
pub(crate) fn integers(values: &[i64], shape: impl Into<Shape>) -> CubeTensor {
    let data = TensorData::new(values.to_vec(), shape.into()).convert_dtype(DType::I32);
    CubeBackend::int_from_data(data, &CubeDevice::default())
}

/// Reads a tensor back.
pub(crate) fn read(tensor: CubeTensor) -> Vec<f64> {
    into_data_sync(tensor).iter::<f64>().collect()
}

/// Asserts that values agree relative to the norm of the expected ones.
#[track_caller]
pub(crate) fn assert_close(what: &str, actual: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(actual.len(), expected.len(), "{what}: length");
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let error = norm(&mut actual.iter().zip(expected).map(|(a, b)| a - b));
    let scale = norm(&mut expected.iter().copied());
    assert!(error <= tolerance * scale + 1e-30, "{what}: error {error:e} against norm {scale:e}");
}

/// Asserts what [`assert_close`] does of a tensor, in the tolerance of its element type.
#[track_caller]
pub(crate) fn assert_tensor(what: &str, actual: CubeTensor, expected: &[f64]) {
    let dtype = actual.dtype();
    assert_close(&format!("{what} in {dtype:?}"), &read(actual), expected, tolerance(dtype));
}

#[cube(launch_unchecked)]
fn combinations(values: &[f32], output: &mut [f32], #[comptime] team: Team) {
    let value = values[UNIT_POS as usize];
    let sum = combine::<Sum>(value, team);
    let highest = combine::<Highest>(value, team);
    output[UNIT_POS as usize] = sum;
    output[(UNIT_POS + comptime!(team.units)) as usize] = highest;
}

#[test]
fn every_unit_gets_the_combination_with_planes_and_without() {
    let client = CubeDevice::default().client();
    for work in [1, 2, 7, 32, 256, 1000, 1024] {
        let team = Team::new(&client, work, 1024);
        for team in [team, Team { plane: 0, ..team }] {
            let len = team.units as usize;
            let values = numbers(work as u64, len, 1.0, DType::F32);
            let output = floats(&vec![0.0; 2 * len], [2 * len], DType::F32);
            // SAFETY: the buffers have an element for each unit, and two.
            unsafe {
                combinations::launch_unchecked(
                    &client,
                    CubeCount::new_single(),
                    team.dim(),
                    floats(&values, [len], DType::F32).into_buffer_arg(),
                    output.clone().into_buffer_arg(),
                    team,
                );
            }
            let sum: f64 = values.iter().sum();
            let highest = values.iter().copied().fold(f64::MIN, f64::max);
            let output = read(output);
            let scale = values.iter().map(|value| value.abs()).sum::<f64>();
            for unit in 0..len {
                let error = (output[unit] - sum).abs();
                assert!(error <= 1e-6 * scale, "{team:?}: unit {unit} has {error:e}");
                assert_eq!(output[len + unit], highest, "{team:?}: unit {unit}");
            }
        }
    }
}

#[test]
fn vectors_are_sixteen_bytes_where_the_length_allows_it() {
    for (len, dtypes, size) in [
        (8, &[DType::F32][..], 4),
        (6, &[DType::F32], 2),
        (7, &[DType::F32], 1),
        (128_256, &[DType::BF16], 8),
        (12, &[DType::BF16], 4),
        (16, &[DType::F32, DType::BF16], 8),
        (0, &[DType::F32], 4),
    ] {
        assert_eq!(vector_size(len, dtypes), size, "{len} of {dtypes:?}");
    }
}
