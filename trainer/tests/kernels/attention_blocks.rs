//! Attention to blocks of keys, combined by their log-sum-exps.

use burn::tensor::{DType, Device, Tensor};
use dream_trainer::kernels::{AttentionOptions, attention_block, attention_block_backward};

use crate::attention::Sizes;
use crate::harness::{assert_close, flat, numbers, read, run};
use crate::tolerance::{BLOCKS, OPERATION_F64};

/// Attends to the keys in two blocks and combines outputs and gradients.
fn in_two_blocks(sizes: Sizes, inputs: &[Vec<f64>], dtype: DType) -> [Vec<f64>; 4] {
    let device = Device::flex();
    let Sizes { batch, queries, keys, heads, kv_heads, head_dim } = sizes;
    let of_query = [batch, queries, heads, head_dim];
    let q = flat(&inputs[0], dtype, &device).reshape(of_query);
    let [k, v] =
        [1, 2].map(|i| flat(&inputs[i], dtype, &device).reshape([batch, keys, kv_heads, head_dim]));
    let weights = flat(&numbers(77, inputs[0].len()), dtype, &device).reshape(of_query);
    let cut = keys / 3;
    let blocks = [(0, cut), (cut, keys - cut)].map(|(first, len)| {
        let options = AttentionOptions { key_offset: first, ..AttentionOptions::causal() };
        (k.clone().narrow(1, first, len), v.clone().narrow(1, first, len), options)
    });
    let parts = blocks
        .each_ref()
        .map(|(k, v, options)| attention_block(q.clone(), k.clone(), v.clone(), options));
    let log_total =
        parts.each_ref().map(|part| part.1.clone().exp()).into_iter().reduce(|a, b| a + b);
    let log_total = log_total.expect("two blocks").log();
    let output = parts.into_iter().map(|(output, part)| {
        let share = (part - log_total.clone()).exp().swap_dims(1, 2).unsqueeze_dim::<4>(3);
        output * share
    });
    let output = output.reduce(|a, b| a + b).expect("two blocks");
    let [(dq_a, dk_a, dv_a), (dq_b, dk_b, dv_b)] = blocks.map(|(k, v, options)| {
        let inputs = [q.clone(), k, v];
        let (output, weights) = (output.clone(), weights.clone());
        let [dq, dk, dv] =
            attention_block_backward(inputs, output, log_total.clone(), weights, &options);
        (dq, dk, dv)
    });
    let join = |a, b| read(Tensor::cat(vec![a, b], 1));
    [read(output), read(dq_a + dq_b), join(dk_a, dk_b), join(dv_a, dv_b)]
}

#[test]
fn blocks_of_keys_combine_to_the_whole() {
    let sizes = Sizes { batch: 2, queries: 11, keys: 11, heads: 4, kv_heads: 2, head_dim: 6 };
    let inputs = sizes.inputs();
    let whole = run(&inputs, DType::F64, &|x| sizes.run(x, &AttentionOptions::causal()));
    for (dtype, tolerance) in [(DType::F32, BLOCKS), (DType::F64, OPERATION_F64)] {
        let [value, gradients @ ..] = in_two_blocks(sizes, &inputs, dtype);
        assert_close("value", &value, &whole.value, tolerance);
        for (actual, expected) in gradients.iter().zip(&whole.gradients) {
            assert_close("gradient", actual, expected, tolerance);
        }
    }
}
