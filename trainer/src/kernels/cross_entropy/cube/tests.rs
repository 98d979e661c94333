//! Cross-entropy on a `CubeCL` device against `f64` on the host.

use burn::tensor::DType;

use super::cross_entropy_rows;
use super::shard;
use crate::kernels::cross_entropy::IGNORE_INDEX;
use crate::kernels::cube::tests::{
    assert_close, assert_tensor, dtypes, floats, integers, numbers, read, tolerance,
};

const IGNORED: i32 = IGNORE_INDEX as i32;

/// Tokens and vocabulary: one element, rows of no whole vector, rows longer than a cube, many rows.
const SHAPES: [(usize, usize); 7] =
    [(1, 1), (3, 7), (5, 12), (4, 1000), (2, 4099), (3, 20_000), (400, 16)];

/// Returns each row's loss and gradient.
fn reference(logits: &[f64], labels: &[i64], columns: usize) -> (Vec<f64>, Vec<f64>) {
    let (mut losses, mut gradients) = (Vec::new(), Vec::new());
    for (row, &label) in logits.chunks_exact(columns).zip(labels) {
        if label == IGNORE_INDEX {
            losses.push(0.0);
            gradients.extend(vec![0.0; columns]);
            continue;
        }
        let highest = row.iter().copied().fold(f64::MIN, f64::max);
        let log_total = highest + row.iter().map(|x| (x - highest).exp()).sum::<f64>().ln();
        losses.push(log_total - row[label as usize]);
        let hit = |i: usize| if i == label as usize { 1.0 } else { 0.0 };
        gradients.extend(row.iter().enumerate().map(|(i, x)| (x - log_total).exp() - hit(i)));
    }
    (losses, gradients)
}

/// The first and the last index of the vocabulary, others, and every third row ignored.
fn labels(rows: usize, columns: usize) -> Vec<i64> {
    let label = |row: usize| match row % 3 {
        0 => (columns - 1) as i64,
        1 => ((row * 31) % columns) as i64,
        _ => IGNORE_INDEX,
    };
    (0..rows).map(label).collect()
}

#[test]
fn losses_and_gradients_equal_the_reference() {
    for dtype in dtypes() {
        for (rows, columns) in SHAPES {
            for scale in [1.0, 60.0] {
                let what = format!("{rows} x {columns}, to {scale}, {dtype:?}");
                let logits = numbers(columns as u64, rows * columns, scale, dtype);
                let labels = labels(rows, columns);
                let (losses, gradients) = reference(&logits, &labels, columns);
                let device = floats(&logits, [rows, columns], dtype);
                let kept = device.clone();
                let (actual, gradient) =
                    cross_entropy_rows(device, integers(&labels, [rows]), IGNORED);
                assert_eq!(read(kept.clone()), logits, "{what}: a shared buffer is not written");
                assert_tensor(&format!("{what}: losses"), actual, &losses);
                assert_tensor(&format!("{what}: gradients"), gradient, &gradients);
                let (_, gradient) = cross_entropy_rows(kept, integers(&labels, [rows]), IGNORED);
                assert_tensor(&format!("{what}: in place"), gradient, &gradients);
            }
        }
    }
}

#[test]
fn unusual_logits_and_labels_keep_their_meaning() {
    let logits = [f64::NEG_INFINITY, 1.0, 2.0, f64::NEG_INFINITY];
    let given = floats(&logits, [1, 4], DType::F32);
    let (losses, gradient) = cross_entropy_rows(given, integers(&[2], [1]), IGNORED);
    let total = (1f64.exp() + 2f64.exp()).ln();
    assert_tensor("masked logits: loss", losses, &[total - 2.0]);
    let expected = [0.0, (1.0 - total).exp(), (2.0 - total).exp() - 1.0, 0.0];
    assert_tensor("masked logits: gradient", gradient, &expected);

    let given = floats(&[0.5; 3 * 4], [3, 4], DType::F32);
    let (losses, _) = cross_entropy_rows(given, integers(&[4, -1, 3], [3]), IGNORED);
    let finite: Vec<bool> = read(losses).iter().map(|loss| loss.is_finite()).collect();
    assert_eq!(finite, [false, false, true], "a label outside of the vocabulary is seen");

    for (rows, columns) in [(0, 8), (2, 0)] {
        let given = floats(&[], [rows, columns], DType::F32);
        let labels = integers(&vec![0; rows], [rows]);
        let (losses, gradient) = cross_entropy_rows(given, labels, IGNORED);
        assert_eq!((read(losses).len(), read(gradient).len()), (rows, 0));
    }
}

#[test]
fn shards_put_together_equal_the_whole() {
    for dtype in dtypes() {
        for (rows, columns) in [(3, 8), (5, 21), (4, 9001)] {
            let logits = numbers(7, rows * columns, 8.0, dtype);
            let labels = labels(rows, columns);
            let (losses, gradients) = reference(&logits, &labels, columns);
            let bounds = [0, columns / 3, columns / 3 * 2, columns];
            let part = |values: &[f64], shard: usize| -> Vec<f64> {
                let rows = values.chunks_exact(columns);
                rows.flat_map(|row| row[bounds[shard]..bounds[shard + 1]].to_vec()).collect()
            };
            let place = |shard: usize| {
                let shape = [rows, bounds[shard + 1] - bounds[shard]];
                floats(&part(&logits, shard), shape, dtype)
            };
            let ids = || integers(&labels, [rows]);
            let mut highest = vec![f64::MIN; rows];
            for shard in 0..3 {
                for (highest, value) in highest.iter_mut().zip(read(shard::maxima(place(shard)))) {
                    *highest = highest.max(value);
                }
            }
            let (mut total, mut target) = (vec![0.0; rows], vec![0.0; rows]);
            for (shard, &first) in bounds.iter().take(3).enumerate() {
                let maxima = floats(&highest, [rows], DType::F32);
                let (sums, targets) = shard::sums(place(shard), ids(), maxima, first);
                let (sums, targets) = (read(sums), read(targets));
                for row in 0..rows {
                    total[row] += sums[row];
                    target[row] += targets[row];
                }
            }
            let log_totals: Vec<f64> =
                total.iter().zip(&highest).map(|(t, h)| t.ln() + h).collect();
            let counted = labels.iter().map(|label| f64::from(u8::from(*label != IGNORE_INDEX)));
            let of_row = log_totals.iter().zip(&target).zip(counted).map(|((l, t), c)| (l - t) * c);
            let what = format!("{rows} x {columns} {dtype:?}");
            assert_close(&what, &of_row.collect::<Vec<_>>(), &losses, 1e-6);
            for (shard, &first) in bounds.iter().take(3).enumerate() {
                let log_totals = floats(&log_totals, [rows], DType::F32);
                let logits = place(shard);
                let actual = shard::gradients(logits, ids(), log_totals, first, 0.5, IGNORED);
                let expected: Vec<f64> = part(&gradients, shard).iter().map(|g| g * 0.5).collect();
                let tolerance = tolerance(dtype);
                assert_close(&format!("{what}: {shard}"), &read(actual), &expected, tolerance);
            }
        }
    }
}
