//! Building a rank: the lifecycle of a run, in order.

use std::collections::BTreeSet;

use burn::tensor::Device;

use super::batch::SharedData;
use super::device::device_of;
use super::identity::{Identity, Recorded};
use super::layouts::Layouts;
use super::precision::Precision;
use super::resume::Resumed;
use super::save::Progress;
use super::saving::Saving;
use super::start::Start;
use super::step::{Owned, is_below};
use super::{
    Batch, DataContext, Replicate, RunLength, RunPlan, SetupContext, Streams, TrainError, Trainer,
    TrainingStep, weights,
};
use crate::callbacks::{BatchShape, CallbackSet, ParameterRow, RunView, SetupReport};
use crate::checkpoint::CheckpointStore;
use crate::comm::{MeshComm, RankContext};
use crate::fsdp::FullyShard;
use crate::mesh::{Axis, AxisSet, Neighbors};
use crate::nn::{self, Scope};
use crate::optim::{GradScaler, LrSchedule, Optimizer};
use crate::run_folder::RunFolder;
use crate::tensor_parallel::{ResolvedPlan, TensorParallel};

/// Everything one rank holds during a run.
pub(crate) struct Rank<'a, S: TrainingStep> {
    pub(crate) trainer: &'a Trainer<S>,
    pub(crate) plan: &'a RunPlan,
    pub(crate) folder: &'a RunFolder,
    pub(crate) comm: MeshComm,
    pub(crate) device: Device,
    pub(crate) model: Option<S::Model>,
    pub(crate) replicate: Replicate,
    pub(crate) fully_shard: Option<FullyShard>,
    pub(crate) layouts: Layouts,
    pub(crate) optimizers: Vec<Owned>,
    pub(crate) schedule: LrSchedule,
    /// Update at which the schedule begins.
    pub(crate) schedule_start: u64,
    /// What the checkpoints of this run belong to.
    pub(crate) identity: Option<Identity>,
    pub(crate) streams: Streams<S::Batch>,
    pub(crate) callbacks: CallbackSet,
    pub(crate) run: RunView,
    pub(crate) store: CheckpointStore,
    /// The checkpoint being written.
    pub(crate) saving: Option<Saving>,
    pub(crate) progress: Progress,
    /// What the recipe expects, and what the first step showed.
    pub(crate) activation_estimate: Option<u64>,
    pub(crate) activation_bytes: Option<u64>,
    pub(crate) grad_scaler: Option<GradScaler>,
    pub(crate) precision: Precision,
}

impl<'a, S: TrainingStep> Rank<'a, S> {
    /// Builds a rank up to its first step.
    ///
    /// The order is: launch, configure the model without values, apply parallelisms, open the data,
    /// choose where weights come from, make only the local values, build optimizers and schedule,
    /// resume.
    /// It is the same on every rank, and it is the whole lifecycle: nothing is built elsewhere.
    pub(crate) fn launch(
        trainer: &'a Trainer<S>,
        config: &S::Config,
        plan: &'a RunPlan,
        folder: &'a RunFolder,
        data: &SharedData,
        world: &RankContext,
        mut callbacks: CallbackSet,
    ) -> Result<Self, TrainError> {
        let comm = MeshComm::new(world.fabric.clone(), plan.mesh, world.rank())?;
        let device = device_of(plan.device, &world.world)?;
        let mut run = view(plan, world.rank());
        callbacks.pre_launch(&run)?;

        callbacks.pre_configure(&run)?;
        let autodiff = plan.activation_checkpointing.device(device.clone().autodiff());
        let scope = Scope::root(autodiff, plan.run.seed);
        let sequence_length = plan.training.sequence_length;
        let ctx = SetupContext { scope, mesh: plan.mesh, rank: world.rank(), sequence_length };
        let model = hook("configure_model", trainer.setup.configure_model(config, &ctx))?;
        callbacks.post_configure(&run)?;

        callbacks.pre_setup(&run)?;
        let (model, _) = apply_tensor_parallel(trainer, plan, &comm, &ctx.scope, model)?;
        let model = match trainer.activation_checkpointing {
            Some(apply) => hook(
                "apply_activation_checkpointing",
                apply(&trainer.setup, model, plan.activation_checkpointing),
            )?,
            None => model,
        };
        let (model, fully_shard) = apply_fully_shard(trainer, plan, &comm, &ctx.scope, model)?;
        let mut replicate = Replicate::new(comm.clone(), plan.fully_shard.reduce_dtype);
        let model = match trainer.replicate {
            Some(apply) if replicate.size() > 1 => {
                hook("apply_replicate", apply(&trainer.setup, model, &mut replicate))?
            }
            _ => model,
        };
        let layouts = Layouts::of(&model, &ctx.scope);

        let dp_rank = plan.mesh.axis_rank(world.rank(), AxisSet::DP);
        let vocab_size = trainer.setup.vocab_size(config);
        let ctx = DataContext { plan, device: device.clone(), dp_rank, vocab_size, shared: data };
        let mut streams = hook("open data", S::Batch::open(&ctx))?;

        let store = CheckpointStore::new(run.directory.join("checkpoints"));
        let now = Recorded::of(plan, Identity::of(trainer, config, plan, &streams)?)?;
        let start = Start::find(&plan.checkpoint, &store, &comm)?;
        let resumed = Resumed::new(&start, plan, &now)?;
        let model = match &resumed {
            Some(resumed) => resumed.load_model(model, &layouts)?,
            None => weights::initial(&trainer.setup, config, plan, &now, model, (&layouts, &comm))?,
        };
        let model = nn::map_values(model, |_, value| Ok::<_, TrainError>(value))?;

        let mut optimizers = build_optimizers(trainer, config, plan, &model)?;
        let schedule_start = resumed.as_ref().map_or(0, Resumed::schedule_start);
        let mut progress = Progress::default();
        let mut grad_scaler = plan.grad_scaler.clone().map(GradScaler::new);
        if let Some(resumed) = resumed {
            let own = (&mut optimizers[..], &layouts);
            let data = streams.train.as_mut();
            progress = resumed.restore(&model, own, grad_scaler.as_mut(), data, &mut callbacks)?;
        }
        run.start_step = progress.step;
        run.num_steps = match plan.training.length {
            RunLength::Steps(steps) => steps,
            RunLength::Epochs(epochs) => {
                progress.step.saturating_add(streams.train.steps_until(epochs))
            }
        };
        // A run that has nothing left to do has no schedule either.
        let left = run.num_steps.checked_sub(schedule_start).filter(|left| *left > 0);
        let schedule = plan.lr_scheduler.resolve(left.unwrap_or(run.num_steps))?;
        let schedule = schedule.starting_at(schedule_start);
        start.take_effect(&store, &comm)?;
        let report = report(&trainer.setup, config, plan, &model, &streams, &optimizers);
        let activation_estimate = report.activation_estimate;
        callbacks.post_setup(&run, &report)?;
        let model = Some(model);
        Ok(Self {
            trainer,
            plan,
            folder,
            comm,
            device,
            model,
            replicate,
            fully_shard,
            layouts,
            optimizers,
            schedule,
            schedule_start,
            identity: now.identity,
            streams,
            callbacks,
            run,
            store,
            saving: None,
            progress,
            activation_estimate,
            activation_bytes: None,
            grad_scaler,
            precision: Precision::default(),
        })
    }
}

/// Splits the model's matrices, and returns the plans that were applied.
pub(super) fn apply_tensor_parallel<S: TrainingStep>(
    trainer: &Trainer<S>,
    plan: &RunPlan,
    comm: &MeshComm,
    scope: &Scope,
    model: S::Model,
) -> Result<(S::Model, Vec<ResolvedPlan>), TrainError> {
    let Some(apply) = trainer.tensor_parallel.filter(|_| plan.mesh.size(Axis::Tp) > 1) else {
        return Ok((model, Vec::new()));
    };
    let tp = TensorParallel::new(scope.clone(), comm.group(Axis::Tp), plan.tensor_parallel);
    let checked = tp.check_sequence(plan.training.sequence_length);
    hook("apply_tensor_parallel", checked.map_err(Into::into))?;
    let model = hook("apply_tensor_parallel", apply(&trainer.setup, model, &tp))?;
    let resolved = tp.resolved();
    // Here, where all ranks are: the first gradients to be summed over neighbors find their group.
    let copies: BTreeSet<usize> =
        resolved.iter().flat_map(ResolvedPlan::params).map(|param| param.copies).collect();
    for count in copies.into_iter().filter(|count| *count > 1) {
        comm.neighbors(Neighbors { axis: Axis::Tp, count })?;
    }
    Ok((model, resolved))
}

pub(super) fn apply_fully_shard<S: TrainingStep>(
    trainer: &Trainer<S>,
    plan: &RunPlan,
    comm: &MeshComm,
    scope: &Scope,
    model: S::Model,
) -> Result<(S::Model, Option<FullyShard>), TrainError> {
    // A group of one has nothing to share; its units still cast and move.
    let has_use = plan.mesh.size(AxisSet::FSDP) > 1 || plan.fully_shard.converts();
    let Some(apply) = trainer.fully_shard.filter(|_| has_use) else {
        return Ok((model, None));
    };
    let fsdp = FullyShard::new(&plan.fully_shard, comm, scope);
    let fsdp = hook("apply_fully_shard", fsdp.map_err(Into::into))?;
    let model = hook("apply_fully_shard", apply(&trainer.setup, model, &fsdp))?;
    Ok((model, Some(fsdp)))
}

/// Adds the name of a hook to its error.
pub(crate) fn hook<T>(name: &'static str, result: super::Result<T>) -> Result<T, TrainError> {
    result.map_err(|error| TrainError::hook(name, error))
}

fn view(plan: &RunPlan, rank: usize) -> RunView {
    let run = &plan.run;
    RunView {
        directory: run.directory(),
        name: format!("{}/{}/{}", run.project, run.group, run.experiment),
        rank,
        mesh: plan.mesh,
        num_steps: match plan.training.length {
            RunLength::Steps(steps) => steps,
            // Known once the data is open.
            RunLength::Epochs(_) => 0,
        },
        start_step: 0,
        tokens_per_step: plan.tokens_per_step(),
        config: plan.config_text.clone(),
    }
}

fn build_optimizers<S: TrainingStep>(
    trainer: &Trainer<S>,
    config: &S::Config,
    plan: &RunPlan,
    model: &S::Model,
) -> Result<Vec<Owned>, TrainError> {
    let entries = nn::parameters(model);
    let matrices = trainer.hidden_matrices(config, &entries);
    let trainable =
        || entries.iter().filter(|entry| entry.trainable).map(|entry| entry.path.as_str());
    plan.optimizer.check_paths(&trainable())?;
    let scopes = trainer.setup.optimizers();
    for path in trainable() {
        let mut owners = scopes
            .iter()
            .filter(|scope| is_below(path, &scope.prefix))
            .map(|scope| scope.name.clone());
        if let (Some(first), Some(second)) = (owners.next(), owners.next()) {
            return Err(TrainError::TwoOptimizers { path: path.into(), first, second });
        }
    }
    let build = |scope: &super::OptimizerScope| {
        if !trainable().any(|path| is_below(path, &scope.prefix)) {
            return Err(TrainError::EmptyOptimizer {
                name: scope.name.clone(),
                prefix: scope.prefix.clone(),
            });
        }
        let optimizer =
            Optimizer::new(&scope.name, plan.optimizer.clone().with_matrices(matrices.clone()));
        Ok(Owned { optimizer, prefix: scope.prefix.clone() })
    };
    scopes.iter().map(build).collect()
}

fn report<S: TrainingStep>(
    setup: &S,
    config: &S::Config,
    plan: &RunPlan,
    model: &S::Model,
    streams: &Streams<S::Batch>,
    optimizers: &[Owned],
) -> SetupReport {
    let row = |entry: nn::ParameterEntry| ParameterRow {
        path: entry.path,
        shape: entry.shape,
        trainable: entry.trainable,
        element_bytes: size_of::<f32>(),
    };
    let training = &plan.training;
    SetupReport {
        model: plan.model.clone(),
        parameters: nn::parameters(model).into_iter().map(row).collect(),
        batch: BatchShape {
            global_batch_size: training.global_batch_size,
            micro_batch_size: training.micro_batch_size,
            gradient_accumulation_steps: training.gradient_accumulation_steps,
            sequence_length: training.sequence_length,
        },
        train_data: streams.train.describe(),
        validation_data: streams.validation.as_ref().map(|stream| stream.describe()),
        optimizers: optimizers
            .iter()
            .map(|owned| {
                format!("{}: {}", owned.optimizer.name(), owned.optimizer.plan().describe())
            })
            .collect(),
        flops_per_token: setup.flops_per_token(config, training.sequence_length),
        activation_estimate: setup.activation_bytes(config, plan),
    }
}
