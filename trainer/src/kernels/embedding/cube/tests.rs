//! The gradient of an embedding on a `CubeCL` device against `f64` on the host.

use burn::tensor::DType;

use super::embedding_backward;
use crate::kernels::cube::tests::{assert_tensor, dtypes, floats, integers, numbers, read};

/// Returns the sums of the rows of each identifier of the vocabulary.
fn reference(ids: &[i64], grad: &[f64], vocabulary: usize, hidden: usize) -> Vec<f64> {
    let mut table = vec![0.0; vocabulary * hidden];
    for (&id, row) in ids.iter().zip(grad.chunks_exact(hidden)) {
        if (0..vocabulary as i64).contains(&id) {
            let sums = &mut table[id as usize * hidden..][..hidden];
            sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
        }
    }
    table
}

#[test]
fn rows_are_summed_over_the_tokens_of_each_identifier() {
    // Tokens, vocabulary, hidden size: repetition, no whole vector, rows longer than a cube, more tokens than a block.
    for (tokens, vocabulary, hidden) in
        [(1, 1, 1), (8, 7, 4), (50, 11, 7), (9, 40, 1100), (300, 3, 16), (8500, 4, 4)]
    {
        for dtype in dtypes() {
            let what = format!("{tokens} tokens, {vocabulary} x {hidden}, rows in {dtype:?}");
            let ids: Vec<i64> =
                (0..tokens as i64).map(|i| (i * i * 31 + 5) % vocabulary as i64).collect();
            let grad = numbers(1, tokens * hidden, 1.0, dtype);
            let given = floats(&grad, [tokens, hidden], dtype);
            let at = integers(&ids, [tokens]);
            let table = embedding_backward(at, given, vocabulary, DType::F32);
            assert_tensor(&what, table, &reference(&ids, &grad, vocabulary, hidden));
        }
    }
}

#[test]
fn identifiers_outside_of_the_vocabulary_add_to_nothing() {
    let ids = [2, -1, 3, 2, 7];
    let grad = numbers(1, 5 * 4, 1.0, DType::F32);
    let given = floats(&grad, [5, 4], DType::F32);
    let table = embedding_backward(integers(&ids, [5]), given, 3, DType::F32);
    assert_tensor("table", table, &reference(&ids, &grad, 3, 4));

    let nothing = floats(&[], [0, 4], DType::F32);
    let table = embedding_backward(integers(&[], [0]), nothing, 3, DType::F32);
    assert_eq!(read(table), [0.0; 12]);
}
