//! Products of tensors by cuBLASLt.
#![expect(unsafe_code, reason = "calls to NVIDIA's libraries take handles and addresses")]

use burn::tensor::{DType, Shape};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use super::blas::Product;
use super::fail;
use crate::backend::driver::Runner;
use crate::kernels::cube::empty;

/// A matrix whose elements lie row by row, or column by column.
#[derive(Debug, Clone)]
pub(crate) struct Matrix {
    tensor: CubeTensor,
    rows: usize,
    columns: usize,
    transposed: bool,
}

impl Matrix {
    /// Views a tensor as a matrix over its last dimension; one of two dimensions may lie as its transpose.
    pub(crate) fn new(tensor: CubeTensor) -> Self {
        let shape = tensor.meta.shape().to_vec();
        let columns = shape.last().copied().unwrap_or(1);
        let rows = shape.iter().product::<usize>().checked_div(columns).unwrap_or(0);
        let strides = tensor.meta.strides().to_vec();
        let is_transposed = shape.len() == 2 && strides == [1, rows] && rows > 1 && columns > 1;
        if is_transposed {
            return Self { tensor, rows, columns, transposed: true };
        }
        Self { tensor: into_contiguous(tensor), rows, columns, transposed: false }
    }

    /// Returns the transposed matrix, without moving an element.
    pub(crate) fn transpose(self) -> Self {
        let Self { tensor, rows, columns, transposed } = self;
        Self { tensor, rows: columns, columns: rows, transposed: !transposed }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    /// Returns `self other`, in an element type.
    pub(crate) fn times(&self, other: &Self, output: DType) -> CubeTensor {
        self.product(other, output, None, None)
    }

    /// Returns `self other` with a row added to each row.
    pub(crate) fn times_plus_row(
        &self,
        other: &Self,
        output: DType,
        row: CubeTensor,
    ) -> CubeTensor {
        let row = into_contiguous(row);
        self.product(other, output, None, Some(&row))
    }

    /// Adds `self other` to a matrix that nobody else holds, in its place.
    pub(crate) fn add_to(&self, other: &Self, sum: CubeTensor) -> CubeTensor {
        let output = sum.dtype;
        self.product(other, output, Some(sum), None)
    }

    fn product(
        &self,
        other: &Self,
        output: DType,
        onto: Option<CubeTensor>,
        bias: Option<&CubeTensor>,
    ) -> CubeTensor {
        assert_eq!(self.columns, other.rows, "matrices must agree in their inner dimension");
        assert_eq!(self.tensor.dtype, other.tensor.dtype, "matrices must have one element type");
        let product = Product {
            m: self.rows,
            n: other.columns,
            k: self.columns,
            a_transposed: self.transposed,
            b_transposed: other.transposed,
            dtype: self.tensor.dtype,
            output,
            accumulates: onto.is_some(),
            has_bias: bias.is_some(),
        };
        let shape = Shape::from([product.m, product.n]);
        if product.m * product.n * product.k == 0 {
            let zeros = || {
                burn_cubecl::ops::numeric::zeros_client(
                    self.tensor.client.clone(),
                    self.tensor.device.clone(),
                    shape,
                    output,
                )
            };
            return onto.unwrap_or_else(zeros);
        }
        let out = onto.unwrap_or_else(|| empty(&self.tensor, shape, output));
        let tensors = [Some(&self.tensor), Some(&other.tensor), Some(&out), bias];
        let handles = tensors.into_iter().flatten().map(|tensor| tensor.handle.clone()).collect();
        let queued = Runner::of(&out).queue(handles, move |spans, stream| {
            let bias = spans.get(3).copied();
            // SAFETY: the tensors have the shapes that the product was made of, and what is queued on the
            // stream later cannot use their memory before the product is done.
            unsafe { product.queue([spans[0], spans[1], spans[2]], bias, stream) }
        });
        if let Err(message) = queued {
            fail(&message);
        }
        out
    }
}
