//! Ranks as threads, reproducible numbers, and comparison.

use std::collections::BTreeMap;
use std::time::Duration;

use burn::module::Module;
use burn::tensor::{Device, Gradients, Tensor, TensorData};
use dream_trainer::comm::{CommError, CommTimeouts, ProcessGroup, RankContext, launch_threads};
use dream_trainer::mesh::Block;
use dream_trainer::nn::{ParamSpec, Scope, parameters, take_gradients};

use crate::tolerance::PAIR;

/// Runs `body` on the world group of `n` ranks and returns the results in rank order.
pub(crate) fn ranks<T: Send>(n: usize, body: impl Fn(&ProcessGroup) -> T + Sync) -> Vec<T> {
    let run = |ctx: RankContext| Ok::<_, CommError>(body(&ctx.world_group()));
    match launch_threads(n, CommTimeouts::uniform(Duration::from_mins(1)), run) {
        Ok(results) => results,
        Err(failure) => panic!("{failure}"),
    }
}

/// The device on which gradients are recorded.
pub(crate) fn device() -> Device {
    crate::place::device().autodiff()
}

/// Returns `len` reproducible numbers between -1 and 1.
pub(crate) fn numbers(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x1234_5678);
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z >> 40) as f32 / (1u32 << 24) as f32) * 2.0 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// Makes a reproducible tensor on the recording device, not a leaf.
pub(crate) fn tensor<const D: usize>(seed: u64, shape: [usize; D]) -> Tensor<D> {
    let values = numbers(seed, shape.iter().product());
    Tensor::from_data(TensorData::new(values, shape), &device())
}

/// Reads a tensor as `f64`.
pub(crate) fn read<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.into_data().iter::<f64>().collect()
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

/// A parameter's gradient on one rank, with where it lies.
pub(crate) struct Piece {
    pub(crate) path: String,
    pub(crate) spec: ParamSpec,
    pub(crate) gradient: Vec<f64>,
}

/// Takes the gradients of a model that was built under `scope`.
pub(crate) fn pieces<M: Module>(model: &M, scope: &Scope, mut gradients: Gradients) -> Vec<Piece> {
    let mut specs: BTreeMap<_, _> = parameters(model)
        .into_iter()
        .map(|entry| (entry.path, scope.spec(entry.id).expect("made under the scope")))
        .collect();
    let mut pieces = Vec::new();
    take_gradients(model, &mut gradients, |path, gradient| {
        let spec = specs.remove(path).expect("each parameter once");
        pieces.push(Piece { path: path.to_owned(), spec, gradient: read(gradient) });
    });
    assert!(specs.is_empty(), "parameters without a gradient: {specs:?}");
    pieces
}

/// Puts the gradients of tensor-parallel ranks together: blocks side by side, terms added, copies
/// compared.
pub(crate) fn assemble(ranks: Vec<Vec<Piece>>) -> BTreeMap<String, Vec<f64>> {
    let mut whole: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (rank, pieces) in ranks.into_iter().enumerate() {
        for Piece { path, spec, gradient } in pieces {
            let layout = &spec.layout;
            let size = spec.shape.iter().product();
            let held = whole.entry(path.clone()).or_insert_with(|| vec![0.0; size]);
            if layout.sharded_axes().is_empty() && layout.partial_gradient.is_empty() && rank > 0 {
                assert_close(&format!("{path} on rank {rank}"), &gradient, held, PAIR);
                continue;
            }
            for (local, value) in gradient.iter().enumerate() {
                held[global_index(local, &layout.block, &spec.shape)] += value;
            }
        }
    }
    whole
}

/// Returns where element `local` of a block lies in the global tensor.
fn global_index(local: usize, block: &Block, shape: &[usize]) -> usize {
    let (mut rest, mut index, mut stride) = (local, 0, 1);
    for dim in (0..shape.len()).rev() {
        index += (rest % block.shape[dim] + block.offset[dim]) * stride;
        rest /= block.shape[dim];
        stride *= shape[dim];
    }
    index
}

/// Compares whole gradients by path.
///
/// A gradient that is zero but for rounding, such as that of a key's bias, which shifts all scores
/// of a query alike, is compared to the rounding of the whole.
#[track_caller]
pub(crate) fn assert_gradients(
    what: &str,
    actual: &BTreeMap<String, Vec<f64>>,
    expected: &BTreeMap<String, Vec<f64>>,
    tolerance: f64,
) {
    assert!(actual.keys().eq(expected.keys()), "{what}: paths");
    let norm = |values: &[f64]| values.iter().map(|v| v * v).sum::<f64>().sqrt();
    let whole = norm(&expected.values().map(|values| norm(values)).collect::<Vec<_>>());
    for (path, expected) in expected {
        if norm(expected) < 1e-7 * whole {
            assert!(norm(&actual[path]) < 1e-7 * whole, "{what}: gradient of {path} is rounding");
        } else {
            assert_close(
                &format!("{what}: gradient of {path}"),
                &actual[path],
                expected,
                tolerance,
            );
        }
    }
}
