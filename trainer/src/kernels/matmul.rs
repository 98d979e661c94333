//! Matrix products at the machine's speed: faer's kernel over strided views of Flex storage.

use burn_flex::FlexTensor;
use faer::linalg::matmul::matmul;
use faer::prelude::ReborrowMut;
use faer::{Accum, MatMut, MatRef, Par};

/// Fewest multiply-adds worth a thread of their own.
const GRAIN: usize = 1 << 20;

/// Reads a row-major slice as a matrix.
pub(crate) fn rows(values: &[f32], rows: usize, columns: usize) -> MatRef<'_, f32> {
    MatRef::from_row_major_slice(values, rows, columns)
}

/// Reads a row-major slice as a matrix to write to.
pub(crate) fn rows_mut(values: &mut [f32], rows: usize, columns: usize) -> MatMut<'_, f32> {
    MatMut::from_row_major_slice_mut(values, rows, columns)
}

/// Reads a two-dimensional tensor as a matrix, whichever of its two dimensions is the contiguous one.
///
/// Returns `None` for other strides; the caller then makes the tensor contiguous.
pub(crate) fn view(tensor: &FlexTensor) -> Option<MatRef<'_, f32>> {
    let layout = tensor.layout();
    let (shape, strides) = (layout.shape(), layout.strides());
    let (&[m, n], &[row, column]) = (&shape[..], strides) else {
        return None;
    };
    let values = &tensor.storage::<f32>()[layout.start_offset()..];
    let (row, column) = (usize::try_from(row).ok()?, usize::try_from(column).ok()?);
    if m == 0 || n == 0 {
        Some(MatRef::from_row_major_slice(&values[..0], m, n))
    } else if column == 1 && row >= n {
        Some(strided(values, n, m, row).transpose())
    } else if row == 1 && column >= m {
        Some(strided(values, m, n, column))
    } else {
        None
    }
}

/// Returns the tensor in a form that [`view`] accepts.
pub(crate) fn viewable(tensor: FlexTensor) -> FlexTensor {
    if view(&tensor).is_some() { tensor } else { super::flex::contiguous(tensor) }
}

fn strided(values: &[f32], contiguous: usize, others: usize, stride: usize) -> MatRef<'_, f32> {
    let end = stride * (others - 1) + contiguous;
    MatRef::from_column_major_slice_with_stride(&values[..end], contiguous, others, stride)
}

/// Rows of a block of a weight's gradient: it keeps both operands' blocks in the second-level cache.
const OUTER_BLOCK: usize = 256;

/// Sets `out` to `a b`, on the threads of the calling thread's pool.
pub(crate) fn product(out: MatMut<'_, f32>, a: MatRef<'_, f32>, b: MatRef<'_, f32>) {
    let parts = parts(&out, a);
    split(out, Accum::Replace, a, b, parts);
}

/// Adds `a b` to `out`, on the threads of the calling thread's pool.
pub(crate) fn add_product(out: MatMut<'_, f32>, a: MatRef<'_, f32>, b: MatRef<'_, f32>) {
    let parts = parts(&out, a);
    split(out, Accum::Add, a, b, parts);
}

/// Fewest rows of a band that is multiplied by several matrices in turn.
const SHARED_BAND: usize = 256;

/// Multiplies one matrix by several: each product sets its output or adds to it.
pub(crate) fn products_of_shared(
    a: MatRef<'_, f32>,
    products: Vec<(MatMut<'_, f32>, Accum, MatRef<'_, f32>)>,
) {
    let columns = products.iter().map(|(out, ..)| out.ncols()).sum::<usize>();
    let parts = (a.nrows() * a.ncols() * columns / GRAIN).clamp(1, rayon::current_num_threads());
    shared(a, products, parts);
}

fn shared(
    a: MatRef<'_, f32>,
    products: Vec<(MatMut<'_, f32>, Accum, MatRef<'_, f32>)>,
    parts: usize,
) {
    if parts == 1 || a.nrows() < 2 * SHARED_BAND {
        for (out, accumulate, b) in products {
            split(out, accumulate, a, b, parts);
        }
        return;
    }
    let (left, right) = (parts / 2, parts - parts / 2);
    let middle = band(a.nrows(), left, parts);
    let (a_above, a_below) = a.split_at_row(middle);
    let halves = products.into_iter().map(|(out, accumulate, b)| {
        let (above, below) = out.split_at_row_mut(middle);
        ((above, accumulate, b), (below, accumulate, b))
    });
    let (above, below): (Vec<_>, Vec<_>) = halves.unzip();
    rayon::join(|| shared(a_above, above, left), || shared(a_below, below, right));
}

/// Sets `out` to the sum of the products of pairs of matrices.
pub(crate) fn sum_of_products(out: MatMut<'_, f32>, terms: &[(MatRef<'_, f32>, MatRef<'_, f32>)]) {
    let depth = terms.iter().map(|(a, _)| a.ncols()).sum::<usize>();
    let work = out.nrows() * out.ncols() * depth;
    summed(out, terms, (work / GRAIN).clamp(1, rayon::current_num_threads()));
}

fn summed(mut out: MatMut<'_, f32>, terms: &[(MatRef<'_, f32>, MatRef<'_, f32>)], parts: usize) {
    if parts == 1 || out.nrows() < 2 * SHARED_BAND {
        let mut accumulate = Accum::Replace;
        for (a, b) in terms {
            split(out.rb_mut(), accumulate, *a, *b, parts);
            accumulate = Accum::Add;
        }
        return;
    }
    let (left, right) = (parts / 2, parts - parts / 2);
    let middle = band(out.nrows(), left, parts);
    let halves = terms.iter().map(|(a, b)| {
        let (above, below) = a.split_at_row(middle);
        ((above, *b), (below, *b))
    });
    let (a_above, a_below): (Vec<_>, Vec<_>) = halves.unzip();
    let (above, below) = out.split_at_row_mut(middle);
    rayon::join(|| summed(above, &a_above, left), || summed(below, &a_below, right));
}

fn parts(out: &MatMut<'_, f32>, a: MatRef<'_, f32>) -> usize {
    let work = out.nrows() * out.ncols() * a.ncols();
    (work / GRAIN).clamp(1, rayon::current_num_threads())
}

/// Computes bands of the output in parallel, each by sequential products.
///
/// faer's own parallel product waits actively for its threads, which costs dearly when ranks outnumber cores; bands need
/// no meeting before the end.
fn split(
    out: MatMut<'_, f32>,
    accumulate: Accum,
    a: MatRef<'_, f32>,
    b: MatRef<'_, f32>,
    parts: usize,
) {
    if parts == 1 {
        sequential(out, accumulate, a, b);
        return;
    }
    let (left, right) = (parts / 2, parts - parts / 2);
    if out.nrows() >= out.ncols() {
        let middle = band(out.nrows(), left, parts);
        let (above, below) = out.split_at_row_mut(middle);
        let (a_above, a_below) = a.split_at_row(middle);
        rayon::join(
            || split(above, accumulate, a_above, b, left),
            || split(below, accumulate, a_below, b, right),
        );
    } else {
        let middle = band(out.ncols(), left, parts);
        let (before, after) = out.split_at_col_mut(middle);
        let (b_before, b_after) = b.split_at_col(middle);
        rayon::join(
            || split(before, accumulate, a, b_before, left),
            || split(after, accumulate, a, b_after, right),
        );
    }
}

/// Multiplies on the calling thread; a product over many rows (a weight's gradient) goes block by block.
fn sequential(
    mut out: MatMut<'_, f32>,
    mut accumulate: Accum,
    a: MatRef<'_, f32>,
    b: MatRef<'_, f32>,
) {
    let inner = a.ncols();
    let over_rows = a.row_stride() == 1 && a.col_stride() != 1;
    let block = if over_rows { OUTER_BLOCK } else { inner };
    if inner <= block {
        matmul(out, accumulate, a, b, 1.0, Par::Seq);
        return;
    }
    for first in (0..inner).step_by(block) {
        let count = block.min(inner - first);
        let (a, b) = (a.subcols(first, count), b.subrows(first, count));
        matmul(out.rb_mut(), accumulate, a, b, 1.0, Par::Seq);
        accumulate = Accum::Add;
    }
}

/// Returns where a dimension is cut for `left` of `parts`, at a multiple of the widest register block.
fn band(len: usize, left: usize, parts: usize) -> usize {
    (len * left / parts).next_multiple_of(16).min(len)
}
