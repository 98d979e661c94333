//! Attention: masks, groups, blocks, rows that see nothing.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use dream_trainer::kernels::{AttentionOptions, attention};
use proptest::prelude::*;

use crate::harness::{assert_close, check, check_differences, flat, numbers, read, run};
use crate::tolerance::{OPERATION, OPERATION_F64};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) batch: usize,
    pub(crate) queries: usize,
    pub(crate) keys: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
}

impl Sizes {
    pub(crate) fn inputs(&self) -> Vec<Vec<f64>> {
        let of_keys = self.batch * self.keys * self.kv_heads * self.head_dim;
        let of_queries = self.batch * self.queries * self.heads * self.head_dim;
        vec![numbers(1, of_queries), numbers(2, of_keys), numbers(3, of_keys)]
    }

    pub(crate) fn run(&self, inputs: &[Tensor<1>], options: &AttentionOptions) -> Tensor<1> {
        let of_query = [self.batch, self.queries, self.heads, self.head_dim];
        let of_key = [self.batch, self.keys, self.kv_heads, self.head_dim];
        let output = attention(
            inputs[0].clone().reshape(of_query),
            inputs[1].clone().reshape(of_key),
            inputs[2].clone().reshape(of_key),
            options,
        );
        output.reshape([of_query.iter().product::<usize>()])
    }
}

fn documents(lists: &[&[i64]]) -> Tensor<2, Int> {
    let shape = [lists.len(), lists[0].len()];
    Tensor::from_data(TensorData::new(lists.concat(), shape), &Device::flex())
}

/// Attention by its definition, for one query and head at a time.
fn by_definition(sizes: Sizes, inputs: &[Vec<f64>], options: &AttentionOptions) -> Vec<f64> {
    let Sizes { batch, queries, keys, heads, kv_heads, head_dim } = sizes;
    let of_documents =
        options.documents.clone().map(|d| d.into_data().iter::<i64>().collect::<Vec<_>>());
    let scale = options.scale.unwrap_or(1.0 / (head_dim as f64).sqrt());
    let mut output = Vec::new();
    for (b, i, h) in indices(batch, queries, heads) {
        let row = |x: &[f64], at: usize| x[at * head_dim..(at + 1) * head_dim].to_vec();
        let q = row(&inputs[0], (b * queries + i) * heads + h);
        let at = |j: usize| (b * keys + j) * kv_heads + h * kv_heads / heads;
        let position = (i + options.query_offset) as i64;
        let sees = |j: usize| {
            let distance = position - (j + options.key_offset) as i64;
            (!options.causal || distance >= 0)
                && options.window.is_none_or(|w| distance.abs() < w as i64)
                && of_documents.as_ref().is_none_or(|d| d[b * queries + i] == d[b * keys + j])
        };
        let weights: Vec<f64> = (0..keys)
            .map(|j| {
                let k = row(&inputs[1], at(j));
                let score: f64 = q.iter().zip(&k).map(|(a, b)| a * b).sum();
                if sees(j) { (score * scale).exp() } else { 0.0 }
            })
            .collect();
        let total: f64 = weights.iter().sum();
        let mut sum = vec![0.0; head_dim];
        for (j, weight) in weights.iter().enumerate().filter(|(_, w)| **w > 0.0) {
            for (sum, v) in sum.iter_mut().zip(row(&inputs[2], at(j))) {
                *sum += weight / total * v;
            }
        }
        output.extend(sum);
    }
    output
}

fn indices(a: usize, b: usize, c: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..a * b * c).map(move |n| (n / (b * c), n / c % b, n % c))
}

fn masks() -> Vec<(&'static str, AttentionOptions)> {
    let causal = AttentionOptions::causal;
    vec![
        ("full", AttentionOptions::default()),
        ("causal", causal()),
        ("window", AttentionOptions { window: Some(3), ..causal() }),
        ("two-sided window", AttentionOptions { window: Some(2), ..AttentionOptions::default() }),
        ("scale", AttentionOptions { scale: Some(0.7), ..causal() }),
        (
            "documents",
            AttentionOptions {
                documents: Some(documents(&[
                    &[0, 0, 0, 1, 1, 2, 2, 2, 2],
                    &[5, 5, 5, 5, 5, 5, 5, 5, 5],
                ])),
                ..causal()
            },
        ),
        (
            "interleaved documents",
            AttentionOptions {
                documents: Some(documents(&[
                    &[0, 1, 0, 1, 0, 1, 0, 1, 0],
                    &[3, 2, 1, 3, 2, 1, 3, 2, 1],
                ])),
                ..AttentionOptions::default()
            },
        ),
    ]
}

#[test]
fn every_mask_matches_its_definition() {
    let sizes = Sizes { batch: 2, queries: 9, keys: 9, heads: 4, kv_heads: 2, head_dim: 6 };
    let inputs = sizes.inputs();
    for (what, options) in masks() {
        let expected = by_definition(sizes, &inputs, &options);
        for (dtype, tolerance) in [(DType::F64, OPERATION_F64), (DType::F32, OPERATION)] {
            let tensors: Vec<_> = inputs.iter().map(|v| flat(v, dtype, &Device::flex())).collect();
            assert_close(what, &read(sizes.run(&tensors, &options)), &expected, tolerance);
        }
        check(what, &inputs, OPERATION, &|x| sizes.run(x, &options));
        check_differences(what, &inputs, &|x| sizes.run(x, &options));
    }
}

#[test]
fn several_blocks_of_queries_and_keys_match_f64() {
    let sizes = Sizes { batch: 1, queries: 300, keys: 300, heads: 2, kv_heads: 1, head_dim: 8 };
    let windowed = AttentionOptions { window: Some(70), ..AttentionOptions::causal() };
    let rows = [AttentionOptions::default(), AttentionOptions::causal(), windowed];
    for options in rows {
        check("blocks", &sizes.inputs(), OPERATION, &|x| sizes.run(x, &options));
    }
}

#[test]
fn queries_that_see_nothing_yield_zeros_and_no_gradient() {
    let sizes = Sizes { batch: 1, queries: 4, keys: 4, heads: 1, kv_heads: 1, head_dim: 3 };
    // The keys begin after the first two queries, and the last query's document has no key.
    let options = AttentionOptions {
        key_offset: 2,
        documents: Some(documents(&[&[0, 0, 0, 9]])),
        key_documents: Some(documents(&[&[0, 0, 0, 0]])),
        ..AttentionOptions::causal()
    };
    let inputs = sizes.inputs();
    check("hidden rows", &inputs, OPERATION, &|x| sizes.run(x, &options));
    let outcome = run(&inputs, DType::F32, &|x| sizes.run(x, &options));
    for row in [0, 1, 3] {
        let row = row * 3..row * 3 + 3;
        assert_eq!(outcome.value[row.clone()], [0.0; 3]);
        assert_eq!(outcome.gradients[0][row], [0.0; 3]);
    }
}

#[test]
fn a_block_of_a_longer_sequence_masks_as_the_whole_does() {
    let whole = Sizes { batch: 1, queries: 12, keys: 12, heads: 2, kv_heads: 2, head_dim: 4 };
    let inputs = whole.inputs();
    let options = AttentionOptions { window: Some(6), ..AttentionOptions::causal() };
    let tensors: Vec<_> = inputs.iter().map(|v| flat(v, DType::F32, &Device::flex())).collect();
    let expected = read(whole.run(&tensors, &options));
    let part = Sizes { queries: 5, ..whole };
    let tail =
        vec![tensors[0].clone().narrow(0, 7 * 8, 5 * 8), tensors[1].clone(), tensors[2].clone()];
    let options = AttentionOptions { query_offset: 7, ..options };
    assert_close("tail", &read(part.run(&tail, &options)), &expected[7 * 8..], OPERATION);
}

#[test]
fn large_scores_do_not_overflow() {
    let sizes = Sizes { batch: 1, queries: 5, keys: 5, heads: 1, kv_heads: 1, head_dim: 4 };
    let inputs: Vec<Vec<f64>> =
        sizes.inputs().into_iter().map(|v| v.into_iter().map(|x| x * 32.0).collect()).collect();
    let [narrow, wide] = [DType::F32, DType::F64]
        .map(|dtype| run(&inputs, dtype, &|x| sizes.run(x, &AttentionOptions::causal())));
    // Scores near a thousand lose three digits more than scores near one.
    assert_close("value", &narrow.value, &wide.value, 1e-4);
    assert!(narrow.gradients.iter().flatten().all(|g| g.is_finite()));
}

#[test]
fn not_a_number_shows() {
    let sizes = Sizes { batch: 1, queries: 2, keys: 2, heads: 1, kv_heads: 1, head_dim: 2 };
    let mut inputs = sizes.inputs();
    inputs[1][0] = f64::NAN;
    let tensors: Vec<_> = inputs.iter().map(|v| flat(v, DType::F32, &Device::flex())).collect();
    assert!(read(sizes.run(&tensors, &AttentionOptions::causal())).iter().all(|v| v.is_nan()));
}

proptest! {
    #![proptest_config(crate::harness::cases(10))]

    #[test]
    fn random_shapes_match_f64(
        batch in 1usize..3, queries in 4usize..90, kv_heads in 1usize..3, group in 1usize..4,
        head_dim in 4usize..24, causal: bool, window in proptest::option::of(3usize..50),
    ) {
        let sizes = Sizes { batch, queries, keys: queries, heads: kv_heads * group, kv_heads, head_dim };
        let options = AttentionOptions { causal, window, ..AttentionOptions::default() };
        check("attention", &sizes.inputs(), OPERATION, &|x| sizes.run(x, &options));
    }
}
