//! A recipe's setup traits, composed.

use std::collections::BTreeSet;
use std::path::PathBuf;

use burn::tensor::Device;

use super::batch::SharedData;
use super::rank::Rank;
use super::{
    ApplyActivationCheckpointing, ApplyFullyShard, ApplyReplicate, ApplyTensorParallel, Interrupt,
    Replicate, Result, RunPlan, SetupContext, TrainError, TrainingStep,
};
use crate::callbacks::CallbackSet;
use crate::comm::{RankFailure, RankFault, Ranks, launch};
use crate::config::DeviceKind;
use crate::fsdp::{ActivationCheckpointing, FullyShard};
use crate::mesh::{Axis, AxisSet, DeviceMesh};
use crate::nn::{self, ParameterEntry, Scope};
use crate::optim::Algorithm;
use crate::run_folder::RunFolder;
use crate::tensor_parallel::TensorParallel;

/// A hook that turns a model into one that fits the mesh, with what it needs for that.
pub(crate) type Apply<S, With> =
    fn(&S, <S as super::ModelSetup>::Model, With) -> Result<<S as super::ModelSetup>::Model>;

/// Composes the setup traits of a recipe and runs it on any mesh its traits allow.
///
/// Each `with_*` method takes part only if the recipe implements the trait, which the compiler
/// checks; a mesh that needs a trait which is not there is refused when the run is planned.
pub struct Trainer<S: TrainingStep> {
    pub(crate) setup: S,
    pub(crate) replicate: Option<ReplicateHook<S>>,
    pub(crate) tensor_parallel: Option<TensorParallelHook<S>>,
    pub(crate) fully_shard: Option<FullyShardHook<S>>,
    pub(crate) activation_checkpointing: Option<Apply<S, ActivationCheckpointing>>,
}

type ReplicateHook<S> = for<'a> fn(
    &S,
    <S as super::ModelSetup>::Model,
    &'a mut Replicate,
) -> Result<<S as super::ModelSetup>::Model>;

type TensorParallelHook<S> = for<'a> fn(
    &S,
    <S as super::ModelSetup>::Model,
    &'a TensorParallel,
) -> Result<<S as super::ModelSetup>::Model>;

type FullyShardHook<S> = for<'a> fn(
    &S,
    <S as super::ModelSetup>::Model,
    &'a FullyShard,
) -> Result<<S as super::ModelSetup>::Model>;

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub struct RunOutcome {
    /// Optimizer steps done, resumed ones included.
    pub step: u64,
    /// Loss of the last step of this start; nothing if none was taken.
    pub loss: Option<f64>,
    /// Whether it ended before its last step.
    pub interrupted: bool,
    /// Steps whose update was dropped because a number was not finite.
    pub skipped_steps: u64,
    /// Folder of the run.
    pub directory: PathBuf,
}

impl<S: TrainingStep> Trainer<S> {
    /// Starts from a setup that runs on one device.
    pub fn new(setup: S) -> Self {
        Self {
            setup,
            replicate: None,
            tensor_parallel: None,
            fully_shard: None,
            activation_checkpointing: None,
        }
    }

    /// Adds replication over data-parallel ranks.
    #[must_use]
    pub fn with_replicate(mut self) -> Self
    where
        S: ApplyReplicate,
    {
        self.replicate = Some(S::apply_replicate);
        self
    }

    /// Adds matrices split over the ranks of `tp`.
    #[must_use]
    pub fn with_tensor_parallel(mut self) -> Self
    where
        S: ApplyTensorParallel,
    {
        self.tensor_parallel = Some(S::apply_tensor_parallel);
        self
    }

    /// Adds units sharded over the ranks of `dp_shard` x `cp`.
    #[must_use]
    pub fn with_fully_shard(mut self) -> Self
    where
        S: ApplyFullyShard,
    {
        self.fully_shard = Some(S::apply_fully_shard);
        self
    }

    /// Adds activations that are computed again in the backward pass.
    #[must_use]
    pub fn with_activation_checkpointing(mut self) -> Self
    where
        S: ApplyActivationCheckpointing,
    {
        self.activation_checkpointing = Some(S::apply_activation_checkpointing);
        self
    }

    /// Tells whether the recipe replicates over data-parallel ranks.
    pub fn replicates(&self) -> bool {
        self.replicate.is_some()
    }

    /// Tells whether the recipe splits matrices.
    pub fn splits_matrices(&self) -> bool {
        self.tensor_parallel.is_some()
    }

    /// Tells whether the recipe shards units.
    pub fn shards_units(&self) -> bool {
        self.fully_shard.is_some()
    }

    /// Tells whether the recipe computes activations again.
    pub fn recomputes(&self) -> bool {
        self.activation_checkpointing.is_some()
    }

    /// Returns the setup.
    pub fn setup(&self) -> &S {
        &self.setup
    }

    /// Checks that the recipe can run the plan.
    ///
    /// # Errors
    ///
    /// An axis whose setup trait is missing; whatever the recipe's own check finds; a model that
    /// does not split as the plan wants.
    pub fn check(&self, config: &S::Config, plan: &RunPlan) -> Result<(), TrainError> {
        let missing =
            |capability| TrainError::MissingCapability { mesh: describe(&plan.mesh), capability };
        let needs = [
            (Axis::DpReplicate.into(), "ApplyReplicate", self.replicate.is_some()),
            (AxisSet::from(Axis::DpShard), "ApplyFullyShard", self.shards_units()),
            (Axis::Tp.into(), "ApplyTensorParallel", self.splits_matrices()),
            (Axis::Cp.into(), "ApplyContextParallel", false),
            (Axis::Pp.into(), "ApplyPipelineParallel", false),
        ];
        if let Some((_, capability, _)) =
            needs.into_iter().find(|(axes, _, has)| plan.mesh.size(*axes) > 1 && !has)
        {
            return Err(missing(capability));
        }
        if plan.fully_shard.converts() && !self.shards_units() {
            let missing = "units that compute in another type than `f32`, or whose shards rest in host memory, need the setup trait `ApplyFullyShard`";
            return Err(TrainError::hook("check", missing.into()));
        }
        self.setup.check(config, plan).map_err(|error| TrainError::hook("check", error))?;
        let names_weights =
            plan.checkpoint.init_from.is_some() || self.setup.hugging_face_dir(config).is_some();
        if let (false, Some(key)) = (names_weights, plan.checkpoint.selection()?.first_key()) {
            return Err(TrainError::NothingToSelect { key });
        }
        if matches!(plan.optimizer.algorithm, Algorithm::Muon { .. })
            && self.hidden_matrices(config, &self.parameters(config, plan)?).is_empty()
        {
            return Err(TrainError::NoHiddenMatrix);
        }
        self.check_placements(config, plan)
    }

    /// Lists the model's parameters without making any value.
    ///
    /// # Errors
    ///
    /// The recipe cannot build the model.
    pub fn parameters(
        &self,
        config: &S::Config,
        plan: &RunPlan,
    ) -> Result<Vec<ParameterEntry>, TrainError> {
        let scope = Scope::root(Device::flex().autodiff(), plan.run.seed);
        let sequence_length = plan.training.sequence_length;
        let ctx = SetupContext { scope, mesh: plan.mesh, rank: 0, sequence_length };
        let model = self.setup.configure_model(config, &ctx);
        let model = model.map_err(|error| TrainError::hook("configure_model", error))?;
        Ok(nn::parameters(&model))
    }

    /// Returns the paths of the hidden matrices that take gradients.
    pub(crate) fn hidden_matrices(
        &self,
        config: &S::Config,
        parameters: &[ParameterEntry],
    ) -> BTreeSet<String> {
        let is_hidden = |entry: &&ParameterEntry| {
            entry.trainable
                && entry.shape.len() == 2
                && self.setup.is_hidden_matrix(config, &entry.path)
        };
        parameters.iter().filter(is_hidden).map(|entry| entry.path.clone()).collect()
    }

    /// Takes the run's folder, runs the plan on the ranks of this process and returns when they have
    /// ended.
    ///
    /// `callbacks` makes the set of each rank. The result is that of the first rank of this
    /// process; ranks agree on all of it.
    ///
    /// # Errors
    ///
    /// Another run has the folder. The first rank that failed, with what it was doing; the others end
    /// because of it.
    ///
    /// # Panics
    ///
    /// If the mesh has another number of ranks than there are.
    pub fn fit(
        &self,
        config: &S::Config,
        plan: &RunPlan,
        ranks: &Ranks,
        interrupt: &Interrupt,
        callbacks: impl Fn(usize) -> CallbackSet + Sync,
    ) -> Result<RunOutcome, RankFailure<TrainError>> {
        let folder = RunFolder::claim(&plan.run.directory(), ranks, plan.timeouts);
        let folder = folder.map_err(|error| RankFailure {
            rank: 0,
            fault: Box::new(RankFault::Error(error.into())),
            others: Vec::new(),
        })?;
        self.fit_in(&folder, config, plan, ranks, interrupt, callbacks)
    }

    /// Runs the plan like [`Trainer::fit`] in a folder that was taken before, because something was
    /// to be written there first, or in one that is not written at all.
    ///
    /// # Errors
    ///
    /// The first rank that failed.
    ///
    /// # Panics
    ///
    /// If the mesh has another number of ranks than there are, or checkpoints go to a folder that is
    /// not to be written.
    pub fn fit_in(
        &self,
        folder: &RunFolder,
        config: &S::Config,
        plan: &RunPlan,
        ranks: &Ranks,
        interrupt: &Interrupt,
        callbacks: impl Fn(usize) -> CallbackSet + Sync,
    ) -> Result<RunOutcome, RankFailure<TrainError>> {
        assert!(folder.may_write() || !plan.checkpoint.enable, "checkpoints need the folder");
        assert_eq!(ranks.world_size(), plan.mesh.world_size(), "the plan is for these ranks");
        if let (DeviceKind::Cpu, Some(dtype)) = (plan.device, plan.fully_shard.param_dtype) {
            tracing::warn!(
                param_dtype = ?dtype,
                "the CPU computes in f32 and rounds to the type asked for: results are as accurate as in that type, steps take longer than with param_dtype = \"f32\""
            );
        }
        folder.warn();
        let data = SharedData::default();
        let outcomes = launch(ranks, plan.timeouts, |world| {
            let callbacks = callbacks(world.rank());
            Rank::launch(self, config, plan, folder, &data, &world, callbacks)?.fit(interrupt)
        })?;
        Ok(outcomes.into_iter().next().expect("a process holds at least one rank"))
    }
}

/// Names the axes of more than one rank, `dp_replicate 4 x tp 2`.
fn describe(mesh: &DeviceMesh) -> String {
    let axes = [Axis::Pp, Axis::DpReplicate, Axis::DpShard, Axis::Cp, Axis::Tp];
    let sizes = axes
        .into_iter()
        .filter(|axis| mesh.size(*axis) > 1)
        .map(|axis| format!("{axis} {}", mesh.size(axis)));
    sizes.collect::<Vec<_>>().join(" x ")
}
