//! Rotary position embedding on a `CubeCL` device against `f64` on the host.

use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;

use super::{Direction, Positions, rotate};
use crate::kernels::cube::tests::{assert_tensor, dtypes, floats, integers, numbers, read};

/// Positions of the table.
const KNOWN: usize = 40;

/// Batch, sequence, heads, head size: halves of whole vectors and of none.
const SHAPES: [[usize; 4]; 5] =
    [[2, 6, 3, 8], [1, 5, 2, 6], [2, 3, 4, 64], [1, 33, 1, 2], [2, 7, 2, 128]];

/// Returns cosines and sines of arbitrary angles.
fn table(half: usize) -> [Vec<f64>; 2] {
    let angles = numbers(9, KNOWN * half, 3.0, DType::F32);
    [f64::cos, f64::sin].map(|function| {
        angles.iter().map(|angle| f64::from(function(*angle) as f32)).collect::<Vec<_>>()
    })
}

fn place(table: &[Vec<f64>; 2], half: usize) -> [CubeTensor; 2] {
    [0, 1].map(|i| floats(&table[i], [KNOWN, half], DType::F32))
}

fn reference(
    x: &[f64],
    [_, _, heads, head_dim]: [usize; 4],
    [cos, sin]: &[Vec<f64>; 2],
    positions: &[usize],
    sign: f64,
) -> Vec<f64> {
    let half = head_dim / 2;
    let mut y = x.to_vec();
    for (head, (y, x)) in y.chunks_exact_mut(head_dim).zip(x.chunks_exact(head_dim)).enumerate() {
        let row = positions[head / heads] * half;
        for i in 0..half {
            let (cos, sin) = (cos[row + i], sin[row + i] * sign);
            y[i] = x[i] * cos - x[i + half] * sin;
            y[i + half] = x[i + half] * cos + x[i] * sin;
        }
    }
    y
}

#[test]
fn rotations_equal_the_reference() {
    for dtype in dtypes() {
        for shape in SHAPES {
            let [batch, sequence, _, head_dim] = shape;
            let (tokens, half) = (batch * sequence, head_dim / 2);
            let x = numbers(1, shape.iter().product(), 1.0, dtype);
            let values = table(half);
            let tables = place(&values, half);
            for (direction, sign) in [(Direction::Forward, 1.0), (Direction::Backward, -1.0)] {
                let what = format!("{shape:?} {direction:?}");
                for offset in [0, 3] {
                    let at: Vec<_> = (0..tokens).map(|token| offset + token % sequence).collect();
                    let expected = reference(&x, shape, &values, &at, sign);
                    let given = floats(&x, shape, dtype);
                    let kept = given.clone();
                    let positions = Positions::Offset(offset);
                    let y = rotate(given, tables.clone(), &positions, direction);
                    assert_eq!(read(kept.clone()), x, "{what}: a shared buffer is not written");
                    assert_tensor(&what, y, &expected);
                    let y = rotate(kept, tables.clone(), &positions, direction);
                    assert_tensor(&format!("{what}, in place"), y, &expected);
                }
                let at: Vec<_> = (0..tokens).map(|token| token * 17 % KNOWN).collect();
                let ids: Vec<_> = at.iter().map(|position| *position as i64).collect();
                let positions = Positions::PerToken(integers(&ids, [batch, sequence]));
                let y = rotate(floats(&x, shape, dtype), tables.clone(), &positions, direction);
                let expected = reference(&x, shape, &values, &at, sign);
                assert_tensor(&format!("{what} by token"), y, &expected);
            }
        }
    }
}

#[test]
fn a_position_outside_of_the_table_is_seen() {
    let tables = place(&table(2), 2);
    let ids = [0, KNOWN as i64, -1, KNOWN as i64 - 1];
    let positions = Positions::PerToken(integers(&ids, [1, 4]));
    let x = floats(&[0.5; 16], [1, 4, 1, 4], DType::F32);
    let y = read(rotate(x, tables.clone(), &positions, Direction::Forward));
    let finite: Vec<bool> =
        y.chunks_exact(4).map(|token| token.iter().all(|y| y.is_finite())).collect();
    assert_eq!(finite, [true, false, false, true]);

    let nothing = floats(&[], [0, 4, 1, 4], DType::F32);
    let y = rotate(nothing, tables, &Positions::Offset(0), Direction::Forward);
    assert_eq!(read(y), [0.0; 0]);
}
