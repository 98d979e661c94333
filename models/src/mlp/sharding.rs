//! How the MLP lies over tensor-parallel ranks.

use dream_trainer::mesh::Placement;
use dream_trainer::tensor_parallel::{ColwiseParallel, Plan, RowwiseParallel};

/// Returns the plan of an MLP of `num_layers` layers: pairs of a layer that splits its outputs and
/// one that splits its inputs.
///
/// A layer without a partner splits its outputs and gathers them.
///
/// # Communication
///
/// Per pair one all-reduce of the output forward, and one of the input's gradient backward, except
/// below the first pair.
///
/// # References
///
/// Megatron-LM, arXiv:1909.08053, section 3, equations 2 and 3.
pub fn plan(num_layers: usize) -> Plan {
    let path = |layer: usize| format!("layers.{layer}");
    let mut plan = Plan::new().flow((0..num_layers).map(path));
    for layer in (0..num_layers).step_by(2) {
        plan = if layer + 1 < num_layers {
            plan.style(path(layer), ColwiseParallel::default())
                .style(path(layer + 1), RowwiseParallel::default())
        } else {
            plan.style(path(layer), ColwiseParallel::default().with_output(Placement::Replicate))
        };
    }
    plan
}

/// Returns the plan in which every layer splits its outputs and gathers them.
///
/// # Communication
///
/// Per layer one all-gather of the output forward, and one all-reduce of the input's gradient
/// backward, except below the first layer.
///
/// # References
///
/// Stanford CS336, lecture 8 (2025), tensor parallelism.
pub fn column_plan(num_layers: usize) -> Plan {
    let path = |layer: usize| format!("layers.{layer}");
    let gathered = ColwiseParallel::default().with_output(Placement::Replicate);
    let plan = Plan::new().flow((0..num_layers).map(path));
    (0..num_layers).fold(plan, |plan, layer| plan.style(path(layer), gathered))
}
