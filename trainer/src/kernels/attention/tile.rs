//! Products of blocks that stay in the first-level cache.
//!
//! A tile of the output lives in registers while its sums are taken: elements of the left operand are broadcast over vectors
//! of the right one. At the sizes of attention this is near the machine's peak, where a general product spends its time on
//! packing.

use pulp::{Simd, WithSimd};

use crate::kernels::arch;

/// Widths of right operands and outputs are multiples of this, which every vector width divides.
pub(super) const PAD: usize = 16;

/// The left operand of a product, of which single elements are read.
#[derive(Clone, Copy)]
pub(super) enum Left<'a> {
    /// A row-major matrix.
    Rows(&'a [f32]),
    /// The transpose of a row-major matrix.
    Columns(&'a [f32]),
}

/// Sets `out` to the product of `left` and `right`, or adds to it. Each operand comes with the distance between its rows.
pub(super) struct Product<'a> {
    pub(super) out: (&'a mut [f32], usize),
    pub(super) left: (Left<'a>, usize),
    pub(super) right: (&'a [f32], usize),
    /// Rows of the output, its columns (a multiple of [`PAD`]), and the length of the sums.
    pub(super) shape: [usize; 3],
    pub(super) accumulate: bool,
}

impl Product<'_> {
    pub(super) fn compute(self) {
        arch::current().dispatch(self);
    }

    #[inline(always)]
    fn run<S: Simd, const M: usize, const V: usize>(&mut self, simd: S) {
        let rows = self.shape[0];
        let whole = rows - rows % M;
        for row in (0..whole).step_by(M) {
            self.strip::<S, M, V>(simd, row);
        }
        for row in whole..rows {
            self.strip::<S, 1, V>(simd, row);
        }
    }

    /// Computes `M` rows of the output.
    #[inline(always)]
    fn strip<S: Simd, const M: usize, const V: usize>(&mut self, simd: S, row: usize) {
        let [_, _, depth] = self.shape;
        let (left, stride) = self.left;
        match left {
            Left::Rows(values) => {
                let mut rows = [&values[..0]; M];
                for i in 0..M {
                    rows[i] = &values[(row + i) * stride..][..depth];
                }
                self.tiles::<S, M, V>(
                    simd,
                    row,
                    #[inline(always)]
                    |p| {
                        let mut elements = [0.0; M];
                        for i in 0..M {
                            elements[i] = rows[i][p];
                        }
                        elements
                    },
                );
            }
            Left::Columns(values) => self.tiles::<S, M, V>(
                simd,
                row,
                #[inline(always)]
                |p| {
                    let mut elements = [0.0; M];
                    elements.copy_from_slice(&values[row + p * stride..][..M]);
                    elements
                },
            ),
        }
    }

    #[inline(always)]
    fn tiles<S: Simd, const M: usize, const V: usize>(
        &mut self,
        simd: S,
        row: usize,
        load: impl Fn(usize) -> [f32; M],
    ) {
        let columns = self.shape[1];
        let whole = columns - columns % (V * S::F32_LANES);
        for column in (0..whole).step_by(V * S::F32_LANES) {
            self.tile::<S, M, V>(simd, [row, column], &load);
        }
        for column in (whole..columns).step_by(S::F32_LANES) {
            self.tile::<S, M, 1>(simd, [row, column], &load);
        }
    }

    #[inline(always)]
    fn tile<S: Simd, const M: usize, const V: usize>(
        &mut self,
        simd: S,
        [row, column]: [usize; 2],
        load: &impl Fn(usize) -> [f32; M],
    ) {
        let width = V * S::F32_LANES;
        let mut sums = [[simd.splat_f32s(0.0); V]; M];
        let (out, stride) = (&mut *self.out.0, self.out.1);
        if self.accumulate {
            for i in 0..M {
                let (out, _) = S::as_simd_f32s(&out[(row + i) * stride + column..][..width]);
                sums[i].copy_from_slice(&out[..V]);
            }
        }
        let (right, right_stride) = self.right;
        for p in 0..self.shape[2] {
            let (right, _) = S::as_simd_f32s(&right[p * right_stride + column..][..width]);
            let mut vectors = [simd.splat_f32s(0.0); V];
            vectors.copy_from_slice(&right[..V]);
            let elements = load(p);
            for i in 0..M {
                let element = simd.splat_f32s(elements[i]);
                for v in 0..V {
                    sums[i][v] = simd.mul_add_f32s(element, vectors[v], sums[i][v]);
                }
            }
        }
        for i in 0..M {
            let (out, _) = S::as_mut_simd_f32s(&mut out[(row + i) * stride + column..][..width]);
            out[..V].copy_from_slice(&sums[i]);
        }
    }
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        // The sums fill the registers: 16 of 32 with 512 bits, 8 of 16 with 256, 16 of 32 with 128.
        match S::F32_LANES {
            16 => self.run::<S, 8, 2>(simd),
            8 => self.run::<S, 4, 2>(simd),
            _ => self.run::<S, 4, 4>(simd),
        }
    }
}
