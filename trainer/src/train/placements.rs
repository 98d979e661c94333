//! What a rank will hold, found without the other ranks and without making a value.

use burn::tensor::Device;

use super::layouts::Layouts;
use super::rank::{apply_fully_shard, apply_tensor_parallel, hook};
use super::{RunPlan, SetupContext, TrainError, Trainer, TrainingStep};
use crate::comm::{MeshComm, ThreadFabric};
use crate::mesh::{Axis, AxisSet};
use crate::nn::Scope;
use crate::tensor_parallel::ResolvedPlan;

/// What one rank will hold of a model.
#[derive(Debug, Clone)]
pub struct Placements {
    /// Tensor-parallel plans, in the order in which they were applied; none where `tp` is 1.
    pub tensor_parallel: Vec<ResolvedPlan>,
    /// Parameters by path.
    pub parameters: Vec<HeldParameter>,
}

/// A parameter and the block of it that one rank holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldParameter {
    /// Dotted path.
    pub path: String,
    /// Shape over all ranks.
    pub global_shape: Vec<usize>,
    /// Shape on the rank.
    pub local_shape: Vec<usize>,
}

impl Placements {
    /// Returns the elements of the whole model.
    pub fn num_parameters(&self) -> usize {
        self.parameters.iter().map(|held| held.global_shape.iter().product::<usize>()).sum()
    }

    /// Returns the elements that the rank holds.
    pub fn num_local_parameters(&self) -> usize {
        self.parameters.iter().map(|held| held.local_shape.iter().product::<usize>()).sum()
    }
}

impl<S: TrainingStep> Trainer<S> {
    /// Applies the parallelisms of a plan as `rank` will, and says what it holds then.
    ///
    /// # Communication
    ///
    /// None: the groups exist, but nobody else joins them.
    ///
    /// # Errors
    ///
    /// Those of the setup hooks: a tensor-parallel plan that does not fit, a parameter in two units.
    pub fn placements(
        &self,
        config: &S::Config,
        plan: &RunPlan,
        rank: usize,
    ) -> Result<Placements, TrainError> {
        let fabric = ThreadFabric::new(plan.mesh.world_size(), plan.timeouts);
        let comm = MeshComm::new(fabric, plan.mesh, rank)?;
        let scope = Scope::root(Device::flex().autodiff(), plan.run.seed);
        let sequence_length = plan.training.sequence_length;
        let ctx = SetupContext { scope, mesh: plan.mesh, rank, sequence_length };
        let model = hook("configure_model", self.setup.configure_model(config, &ctx))?;
        let (model, tensor_parallel) = apply_tensor_parallel(self, plan, &comm, &ctx.scope, model)?;
        let (model, _) = apply_fully_shard(self, plan, &comm, &ctx.scope, model)?;
        let layouts = Layouts::of(&model, &ctx.scope);
        let parameters = layouts.iter().map(|(path, held)| HeldParameter {
            path: path.to_owned(),
            global_shape: held.global_shape.clone(),
            local_shape: held.layout.block.shape.clone(),
        });
        Ok(Placements { tensor_parallel, parameters: parameters.collect() })
    }

    /// Checks, before any rank starts, that the parallelisms that split the model fit it.
    pub(super) fn check_placements(
        &self,
        config: &S::Config,
        plan: &RunPlan,
    ) -> Result<(), TrainError> {
        let splits = AxisSet::FSDP | Axis::Tp;
        if plan.mesh.size(splits) > 1 {
            self.placements(config, plan, 0).map(|_| ())
        } else {
            Ok(())
        }
    }
}
