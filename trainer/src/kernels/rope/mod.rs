//! Rotary position embedding in the rotate-half convention of the Hugging Face models.

#[cfg(feature = "cube")]
mod cube;
#[cfg(feature = "cube")]
mod device;

use std::sync::Arc;

use burn::tensor::{Device, Int, Tensor, TensorData};
use burn_flex::FlexTensor;
use rayon::prelude::*;

use crate::kernels::fused::{Kernel, apply1};
use crate::kernels::half_precision::widened;
use crate::kernels::simd::vectorized;
use crate::kernels::{dispatch, flex};

/// Holds the cosines and sines of every position and frequency.
#[derive(Debug, Clone)]
pub struct RopeTable {
    /// Cosines, `[positions, head_dim / 2]`, times the magnitude.
    pub cos: Tensor<2>,
    /// Sines, `[positions, head_dim / 2]`, times the magnitude.
    pub sin: Tensor<2>,
}

impl RopeTable {
    /// Builds the table of the usual frequencies `theta^(-2i / head_dim)`.
    pub fn new(head_dim: usize, positions: usize, theta: f64, device: &Device) -> Self {
        let frequencies: Vec<f64> =
            (0..head_dim / 2).map(|i| theta.powf(-(2.0 * i as f64) / head_dim as f64)).collect();
        Self::from_frequencies(&frequencies, positions, device)
    }

    /// Builds the table of the given frequencies (radians per position), for scaled variants.
    ///
    /// Angles are computed in `f64`, so that far positions keep their precision.
    pub fn from_frequencies(frequencies: &[f64], positions: usize, device: &Device) -> Self {
        Self::scaled(frequencies, 1.0, positions, device)
    }

    /// Builds the table of the given frequencies that also multiplies what it rotates by
    /// `magnitude`.
    pub fn scaled(frequencies: &[f64], magnitude: f64, positions: usize, device: &Device) -> Self {
        let table = |function: fn(f64) -> f64| {
            let value = |p: usize, f: &f64| (function(p as f64 * f) * magnitude) as f32;
            let values: Vec<f32> =
                (0..positions).flat_map(|p| frequencies.iter().map(move |f| value(p, f))).collect();
            Tensor::from_data(TensorData::new(values, [positions, frequencies.len()]), device)
        };
        Self { cos: table(f64::cos), sin: table(f64::sin) }
    }

    /// Returns the number of positions the table holds.
    pub fn positions(&self) -> usize {
        self.cos.dims()[0]
    }
}

/// Says at which positions the tokens of a batch stand.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "a few live at a time, on the stack")]
pub enum RopePositions {
    /// Token `i` of each sequence stands at position `offset + i`.
    Offset(usize),
    /// Each token's position, `[batch, sequence]`.
    PerToken(Tensor<2, Int>),
}

/// Rotates each pair `(x[i], x[i + head_dim / 2])` by its position's angle and multiplies it by the
/// table's magnitude.
///
/// # Shapes
///
/// `x` and the result are `[batch, sequence, heads, head_dim]`.
///
/// # Panics
///
/// When a position lies outside the table or `head_dim` differs from the table's.
///
/// # References
///
/// `RoFormer`: Enhanced Transformer with Rotary Position Embedding, arXiv:2104.09864, section 3.4.
pub fn rope(x: Tensor<4>, table: &RopeTable, positions: &RopePositions) -> Tensor<4> {
    let dtypes = [x.dtype(), table.cos.dtype(), table.sin.dtype()];
    if dispatch::has_fused_kernel(&x.device(), &dtypes) {
        let kernel = RopeKernel::new(x.dims(), table, positions);
        return apply1(x, kernel);
    }
    #[cfg(feature = "cube")]
    if dispatch::has_cube_kernel(&x.device(), &dtypes) {
        return device::rope(x, table, positions);
    }
    reference(x, table, positions)
}

fn reference(x: Tensor<4>, table: &RopeTable, positions: &RopePositions) -> Tensor<4> {
    let [_, sequence, _, head_dim] = x.dims();
    let (half, dtype) = (head_dim / 2, x.dtype());
    // In half precision the angles of far positions would lose their last digits.
    let x = widened(x);
    let rows = |table: &Tensor<2>| -> Tensor<4> {
        let table = table.clone().cast(x.dtype());
        match positions {
            RopePositions::Offset(offset) => {
                table.narrow(0, *offset, sequence).reshape([1, sequence, 1, half])
            }
            RopePositions::PerToken(ids) => {
                let [batch, sequence] = ids.dims();
                let flat = ids.clone().reshape([batch * sequence]);
                table.select(0, flat).reshape([batch, sequence, 1, half])
            }
        }
    };
    let (cos, sin) = (rows(&table.cos), rows(&table.sin));
    let low = x.clone().narrow(3, 0, half);
    let high = x.narrow(3, half, half);
    let rotated_low = low.clone() * cos.clone() - high.clone() * sin.clone();
    let rotated_high = high * cos + low * sin;
    Tensor::cat(vec![rotated_low, rotated_high], 3).cast(dtype)
}

/// Rotation in place; its backward is the rotation by the opposite angle, with the same magnitude.
#[derive(Debug, Clone)]
struct RopeKernel {
    cos: FlexTensor,
    sin: FlexTensor,
    /// Position of each token of the batch.
    positions: Arc<[usize]>,
}

impl RopeKernel {
    fn new(
        [batch, sequence, _, head_dim]: [usize; 4],
        table: &RopeTable,
        positions: &RopePositions,
    ) -> Self {
        let [rows, half] = table.cos.dims();
        assert_eq!(head_dim, 2 * half, "the head size must be twice the table's frequencies");
        let positions: Arc<[usize]> = match positions {
            RopePositions::Offset(offset) => {
                (0..batch).flat_map(|_| *offset..offset + sequence).collect()
            }
            RopePositions::PerToken(ids) => {
                flex::integers(ids.clone()).into_iter().map(|p| p as usize).collect()
            }
        };
        assert_eq!(positions.len(), batch * sequence, "every token needs a position");
        assert!(positions.iter().all(|&p| p < rows), "positions must lie within the table");
        let flat = |table: &Tensor<2>| flex::contiguous(flex::from_tensor(table.clone()));
        Self { cos: flat(&table.cos), sin: flat(&table.sin), positions }
    }

    fn rotate(&self, x: FlexTensor, direction: f32) -> FlexTensor {
        let mut x = flex::contiguous(x);
        let shape = flex::dims(&x);
        let (token, half) = (shape[2] * shape[3], shape[3] / 2);
        if token == 0 {
            return x;
        }
        let (cos, sin) = (self.cos.storage::<f32>(), self.sin.storage::<f32>());
        let task = flex::rows_per_task(self.positions.len(), token);
        x.storage_mut::<f32>()
            .par_chunks_mut(task * token)
            .zip(self.positions.par_chunks(task))
            .for_each(|(x, positions)| {
                vectorized!(for (x, position) in x.chunks_exact_mut(token).zip(positions) {
                    let row = position * half..(position + 1) * half;
                    let (cos, sin) = (&cos[row.clone()], &sin[row]);
                    for head in x.chunks_exact_mut(2 * half) {
                        let (low, high) = head.split_at_mut(half);
                        let pairs = low.iter_mut().zip(high);
                        for ((low, high), (cos, sin)) in pairs.zip(cos.iter().zip(sin)) {
                            let (a, b, sin) = (*low, *high, sin * direction);
                            *low = a * cos - b * sin;
                            *high = b * cos + a * sin;
                        }
                    }
                });
            });
        x
    }
}

impl Kernel<1> for RopeKernel {
    type Saved = ();

    fn reads(&self, _needs: [bool; 1]) -> [bool; 1] {
        [false]
    }

    fn forward(&self, [x]: [FlexTensor; 1], _needs: [bool; 1]) -> (FlexTensor, ()) {
        (self.rotate(x, 1.0), ())
    }

    fn backward(
        &self,
        _inputs: [Option<FlexTensor>; 1],
        (): (),
        grad: FlexTensor,
        _needs: [bool; 1],
    ) -> [Option<FlexTensor>; 1] {
        [Some(self.rotate(grad, -1.0))]
    }
}
