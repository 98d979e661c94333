//! What a run on thread ranks needs of this machine's memory, at least.

use super::RunPlan;
use crate::mesh::Axis;
use crate::nn::ParameterEntry;
use crate::optim::Algorithm;

/// Bytes of a number in `f32`, in which parameters rest on a CPU.
const NUMBER: u128 = 4;
/// Bytes of a token with its label.
const TOKEN: u128 = 8;
/// Bytes that a rank takes for its threads and its mailboxes before it does anything, at least.
const RANK: u128 = 128 << 10;

/// Bytes of host memory that the thread ranks of a run need together: a lower bound, from which a
/// run that cannot be is known before it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostBytes {
    /// Weights, gradients and optimizer state.
    pub state: u64,
    /// Tokens and labels of one step.
    pub tokens: u64,
    /// What operations keep for the backward pass of a microbatch, as far as the recipe estimates
    /// it.
    pub activations: u64,
    /// The ranks themselves.
    pub ranks: u64,
}

impl HostBytes {
    /// Works out the needs of a plan. `parameters` are those of the whole model, `activations` the
    /// bytes of one rank.
    pub fn estimate(
        plan: &RunPlan,
        parameters: &[ParameterEntry],
        activations: Option<u64>,
    ) -> Self {
        let moments = match plan.optimizer.algorithm {
            Algorithm::Adam { .. } => 2,
            Algorithm::Muon { .. } => 1,
            Algorithm::Sgd { momentum, .. } => u128::from(momentum > 0.0),
        };
        let numbers = |entry: &ParameterEntry| {
            let elements =
                entry.shape.iter().fold(1_u128, |all, size| all.saturating_mul(*size as u128));
            elements.saturating_mul(if entry.trainable { 2 + moments } else { 1 })
        };
        let numbers = parameters.iter().map(numbers).fold(0_u128, u128::saturating_add);
        let copies = plan.mesh.size(Axis::DpReplicate) as u128;
        let num_ranks = plan.mesh.world_size() as u128;
        let bytes = |number: u128| u64::try_from(number).unwrap_or(u64::MAX);
        let product = |a: u128, b: u128| bytes(a.saturating_mul(b));
        let training = &plan.training;
        let tokens = training.global_batch_size as u128 * training.sequence_length as u128;
        Self {
            state: product(numbers.saturating_mul(NUMBER), copies),
            tokens: product(tokens, TOKEN),
            activations: product(u128::from(activations.unwrap_or(0)), num_ranks),
            ranks: product(num_ranks, RANK),
        }
    }

    /// Returns the sum.
    pub fn total(&self) -> u64 {
        [self.state, self.tokens, self.activations, self.ranks]
            .into_iter()
            .fold(0, u64::saturating_add)
    }
}
