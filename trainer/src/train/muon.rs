//! Muon on matrices of which each rank holds a block.
//!
//! Orthogonal directions need the whole matrix. Of each matrix one rank of those that share it
//! gathers the momentum, computes, and scatters the blocks; the matrices are dealt out, so that all
//! ranks compute at the same time and none ever holds more than one whole matrix per round.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};

use super::layouts::{Held, Layouts};
use crate::comm::{CommError, MeshComm, ProcessGroup, Work};
use crate::kernels;
use crate::mesh::{AxisSet, Block};
use crate::optim::{Algorithm, Optimizer};

/// Replaces the gradients of hidden matrices by orthogonal directions, if the optimizer is Muon.
///
/// A direction is scaled by `sqrt(max(1, d_output / d_input))`, so that its effect on the outputs
/// does not depend on the shape.
///
/// # Communication
///
/// Per matrix that is split over ranks: one gather and one scatter of it among those ranks.
///
/// # Errors
///
/// Ranks cannot communicate.
pub(crate) fn orthogonalize(
    gradients: &mut BTreeMap<String, Tensor<1>>,
    optimizer: &mut Optimizer,
    grad_scale: f64,
    layouts: &Layouts,
    comm: &MeshComm,
) -> Result<(), CommError> {
    let Algorithm::Muon { newton_schulz_steps: steps, .. } = optimizer.plan().algorithm else {
        return Ok(());
    };
    let mut by_axes: BTreeMap<AxisSet, Vec<Split<'_>>> = BTreeMap::new();
    let matrices: Vec<_> =
        gradients.extract_if(.., |path, _| optimizer.plan().is_orthogonalized(path)).collect();
    for (path, gradient) in matrices {
        let direction = optimizer.momentum(&path, gradient, grad_scale);
        let held = layouts.get(&path);
        let axes = held.layout.sharded_axes();
        by_axes.entry(axes).or_default().push(Split { path, direction, held });
    }
    for (axes, matrices) in by_axes {
        let group = comm.group(axes);
        let mut rest = matrices.into_iter();
        loop {
            let round: Vec<_> = rest.by_ref().take(group.size()).collect();
            if round.is_empty() {
                break;
            }
            gradients.extend(Round { matrices: round, group: &group, comm, steps }.run()?);
        }
    }
    Ok(())
}

/// A matrix as this rank holds it.
struct Split<'a> {
    path: String,
    direction: Tensor<1>,
    held: &'a Held,
}

/// At most one matrix per rank of a group: rank i computes the i-th.
struct Round<'a> {
    matrices: Vec<Split<'a>>,
    group: &'a ProcessGroup,
    comm: &'a MeshComm,
    steps: usize,
}

impl Round<'_> {
    fn run(self) -> Result<Vec<(String, Tensor<1>)>, CommError> {
        let issue = |(owner, split): (usize, &Split<'_>)| {
            self.group.issue_gather(self.padded(split), owner)
        };
        let gathers: Vec<Work<Option<TensorData>>> =
            self.matrices.iter().enumerate().map(issue).collect::<Result<_, _>>()?;
        let mut own = None;
        for (split, gather) in self.matrices.iter().zip(gathers) {
            if let Some(parts) = gather.wait()? {
                own = Some(self.compute(split, &parts));
            }
        }
        let mut scatters = Vec::new();
        for owner in 0..self.matrices.len() {
            let parts = if owner == self.group.rank() { own.take() } else { None };
            scatters.push(self.group.issue_scatter(parts, owner)?);
        }
        let mut directions = Vec::new();
        for (split, scatter) in self.matrices.into_iter().zip(scatters) {
            let (device, len) = (split.direction.device(), split.direction.dims()[0]);
            let part = Tensor::<1>::from_data(scatter.wait()?, &device);
            directions.push((split.path, part.narrow(0, 0, len)));
        }
        Ok(directions)
    }

    /// Returns the blocks of all members.
    fn blocks(&self, held: &Held) -> Vec<Block> {
        let block =
            |rank: &usize| held.layout.block_of(self.comm.mesh(), *rank, &held.global_shape);
        self.group.members().iter().map(block).collect()
    }

    /// Returns the elements of the largest block.
    fn part_len(&self, held: &Held) -> usize {
        self.blocks(held).iter().map(Block::num_elements).max().unwrap_or_default()
    }

    /// Returns the own block, filled up with zeros to the size of the largest.
    fn padded(&self, split: &Split<'_>) -> TensorData {
        let mut values = f32s(split.direction.clone());
        values.resize(self.part_len(split.held), 0.0);
        let len = values.len();
        TensorData::new(values, [len])
    }

    /// Makes the whole matrix from the blocks of all members, orthogonalizes it and cuts it again.
    fn compute(&self, split: &Split<'_>, parts: &TensorData) -> TensorData {
        let (held, device) = (split.held, split.direction.device());
        let &[rows, columns] = &held.global_shape[..] else {
            unreachable!("hidden matrices have two dimensions")
        };
        let blocks = self.blocks(held);
        let part_len = self.part_len(held);
        let parts: &[f32] = parts.as_slice().expect("momentum travels as f32");
        let mut whole = vec![0.0_f32; rows * columns];
        for (block, part) in blocks.iter().zip(parts.chunks(part_len.max(1))) {
            for (index, row) in block.range(0).enumerate() {
                let width = block.shape[1];
                let start = row * columns + block.offset[1];
                whole[start..start + width]
                    .copy_from_slice(&part[index * width..(index + 1) * width]);
            }
        }
        let whole = orthogonal(whole, [rows, columns], self.steps, &device);
        let mut cut = Vec::with_capacity(part_len * blocks.len());
        for (index, block) in blocks.iter().enumerate() {
            for row in block.range(0) {
                let start = row * columns + block.offset[1];
                cut.extend_from_slice(&whole[start..start + block.shape[1]]);
            }
            cut.resize(part_len * (index + 1), 0.0);
        }
        let len = cut.len();
        TensorData::new(cut, [len])
    }
}

fn orthogonal(values: Vec<f32>, shape: [usize; 2], steps: usize, device: &Device) -> Vec<f32> {
    let [d_input, d_output] = shape;
    let matrix = Tensor::<2>::from_data(TensorData::new(values, shape), device);
    let scale = (d_output as f64 / d_input as f64).max(1.0).sqrt();
    let direction = kernels::orthogonalize(matrix, steps) * scale;
    f32s(direction.reshape([d_input * d_output]))
}

fn f32s(tensor: Tensor<1>) -> Vec<f32> {
    let data = tensor.into_data().convert::<f32>();
    data.try_into_vec().expect("it was converted to f32")
}
