//! Running a function on every rank, and joining what they hold.

use std::fmt;
use std::time::Duration;

use burn::tensor::{Device, Tensor, TensorData};
use dream_trainer::comm::{
    CommError, CommTimeouts, ProcessGroup, RankContext, RankFailure, launch_threads,
};

/// The device on which gradients are recorded.
pub fn device() -> Device {
    Device::flex().autodiff()
}

/// Runs `body` on `world_size` ranks and returns the results in rank order.
///
/// # Errors
///
/// The first rank that failed.
pub fn launch<T: Send>(
    world_size: usize,
    body: impl Fn(&ProcessGroup) -> T + Sync,
) -> Result<Vec<T>, RankFailure<CommError>> {
    let timeouts = CommTimeouts::uniform(Duration::from_secs(100));
    launch_threads(world_size, timeouts, |ctx: RankContext| Ok(body(&ctx.world_group())))
}

/// Makes a tensor of numbers between -1 and 1 that do not depend on the machine.
pub fn numbers<const D: usize>(seed: u64, shape: [usize; D]) -> Tensor<D> {
    let mut state = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 40) as f32 / (1u32 << 23) as f32) - 1.0
    };
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| next()).collect();
    Tensor::from_data(TensorData::new(values, shape), &device())
}

/// Reads a tensor.
pub fn read<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

/// Shape and first element of a matrix, as `128x1024[-0.1234...]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// First element.
    pub first: f32,
}

impl Summary {
    /// Summarizes a matrix.
    pub fn new(matrix: &Tensor<2>) -> Self {
        let [rows, columns] = matrix.dims();
        let first = read(matrix.clone().inner().slice([0..1, 0..1]));
        Self { rows, columns, first: first[0] }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}[{:.4}...]", self.rows, self.columns, self.first)
    }
}
