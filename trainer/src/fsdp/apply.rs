//! [`FullyShard`]: turning a model's units into sharded ones.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use burn::module::{Module, Param, ParamId};
use burn::tensor::{DType, Device, Tensor};

use super::flat::FlatLayout;
use super::reduce::Unreduced;
use super::schedule::Schedule;
use super::sharing::Sharing;
use super::weights::{Keep, Weights};
use super::{FsdpError, FullyShardConfig, GatheredBytes, Reshard, Unit};
use crate::comm::{MeshComm, ProcessGroup};
use crate::mesh::{Axis, AxisSet};
use crate::nn::{self, MapParam, ParamLayout, ParameterEntry, Scope};

/// Shards the units of a model over the ranks along `dp_shard` and `cp`.
///
/// Each parameter is split along dimension 0, evenly or not. A rank makes, holds and updates its
/// part only; initial values, optimizer state and checkpoints never see the whole. Copies of the
/// shards along `dp_replicate` (HSDP) are the trainer's to reduce, as for any other parameter.
///
/// # References
///
/// Zhao et al., "Experiences on scaling fully sharded data parallel", arXiv:2304.11277.
#[derive(Debug, Clone)]
pub struct FullyShard {
    config: FullyShardConfig,
    scope: Scope,
    group: ProcessGroup,
    keep: Keep,
    schedule: Arc<Schedule>,
    units: Arc<Mutex<Units>>,
}

#[derive(Debug, Default)]
struct Units {
    names: Vec<String>,
    /// Unit of each parameter, by identity.
    owner: BTreeMap<u64, usize>,
}

impl FullyShard {
    /// Prepares to shard models whose parameters are made under `scope`.
    ///
    /// # Errors
    ///
    /// An element type of the configuration is not a float of 16 or 32 bits.
    pub fn new(
        config: &FullyShardConfig,
        comm: &MeshComm,
        scope: &Scope,
    ) -> Result<Self, FsdpError> {
        config.validate()?;
        let mut keep = match config.reshard {
            Reshard::Parameters => Keep::Forward,
            Reshard::Gradients | Reshard::Optimizer => Keep::Update,
        };
        if comm.mesh().size(Axis::Pp) > 1 && keep == Keep::Forward {
            tracing::info!("pipeline stages keep gathered parameters until the update");
            keep = Keep::Update;
        }
        let group = comm.group(AxisSet::FSDP);
        if group.size() == 1 && !config.cpu_offload {
            // All that could be freed is the copy in another element type, which backward would only make again.
            keep = keep.max(Keep::Backward);
        }
        Ok(Self {
            config: config.clone(),
            scope: scope.clone(),
            group,
            keep,
            schedule: Arc::new(Schedule::new(config.prefetch_units)),
            units: Arc::default(),
        })
    }

    /// Returns the number of ranks that share one copy of the parameters.
    pub fn size(&self) -> usize {
        self.group.size()
    }

    /// Shards one unit.
    ///
    /// # Errors
    ///
    /// A parameter was not made under the scope, or is in another unit already.
    pub fn shard<M: Module + 'static>(&self, unit: Unit<M>) -> Result<Unit<M>, FsdpError> {
        // One rank has nothing to share, and where nothing is cast or moved nothing to do.
        if self.group.size() == 1 && !self.config.converts() {
            return Ok(unit);
        }
        let entries = nn::parameters(unit.module());
        if entries.is_empty() {
            return Ok(unit);
        }
        let index = self.register(&entries)?;
        let whole = entries.iter().map(|entry| entry.shape.clone()).collect();
        let layout = FlatLayout::new(whole, self.group.size());
        let dtype = self.config.param_dtype;
        let live = Arc::clone(&self.schedule.live);
        let sharing = Sharing {
            unit: index,
            weights: Arc::new(Weights::new(
                self.name(index).into(),
                layout,
                self.group.clone(),
                dtype,
                self.keep == Keep::Update,
                self.scope.device().clone().inner(),
                live,
            )),
            keep: self.keep,
            input_dtype: self.config.param_dtype,
            output_dtype: self.config.output_dtype,
            keeps_whole_gradients: self.config.reshard == Reshard::Optimizer
                || self.config.accumulate_whole_gradients,
            reduce_dtype: self.config.reduce_dtype,
            schedule: Arc::clone(&self.schedule),
            unreduced: Unreduced::default(),
            backward_reads: AtomicBool::new(false),
        };
        let split = Split {
            scope: self.resting_place(),
            parts: self.group.size(),
            index: self.group.rank(),
            unit: self.name(index),
        };
        unit.with_sharing(|module| nn::map_params(module, split), sharing)
    }

    /// Shards units that run one after the other.
    ///
    /// # Errors
    ///
    /// As [`FullyShard::shard`].
    pub fn shard_each<M: Module + 'static>(
        &self,
        units: Vec<Unit<M>>,
    ) -> Result<Vec<Unit<M>>, FsdpError> {
        units.into_iter().map(|unit| self.shard(unit)).collect()
    }

    /// Ends the sharding of a model. The last unit that was sharded is the one that may stay
    /// gathered between forward and backward.
    ///
    /// Parameters outside of units stay whole on every rank; their gradients are summed over all
    /// data-parallel ranks.
    pub fn shard_root<M: Module>(&self, model: M) -> M {
        let units = self.units.lock().unwrap_or_else(PoisonError::into_inner);
        let entries = nn::parameters(&model);
        let whole = entries.iter().filter(|entry| !units.owner.contains_key(&entry.id.val()));
        let elements: usize = whole.map(ParameterEntry::num_elements).sum();
        tracing::debug!(units = units.names.len(), whole_elements = elements, "sharded the model");
        if self.config.keep_last_unit && self.keep == Keep::Forward {
            self.schedule.keep_unit(units.names.len().checked_sub(1));
        }
        model
    }

    /// Returns the names of the units, in the order in which they were sharded.
    pub fn units(&self) -> Vec<String> {
        self.units.lock().unwrap_or_else(PoisonError::into_inner).names.clone()
    }

    /// Says whether the backward passes that follow belong to the last microbatch of a step. With
    /// `reshard = "optimizer"` gradients are summed on the rank until they do; the others reduce
    /// them after each microbatch in any case.
    pub fn set_last_microbatch(&self, last: bool) {
        self.schedule.set_sync(last);
    }

    /// Watches the bytes of gathered parameters on this rank.
    pub fn gathered_bytes(&self) -> &GatheredBytes {
        &self.schedule.live
    }

    /// Tells whether a parameter is in one of the units.
    pub fn shards(&self, parameter: ParamId) -> bool {
        let units = self.units.lock().unwrap_or_else(PoisonError::into_inner);
        units.owner.contains_key(&parameter.val())
    }

    /// Returns the element type of each unit's whole parameters and their number, read from the
    /// tensors of the last forward pass.
    pub fn gathered_elements(&self) -> Vec<(DType, usize)> {
        self.schedule.gathered.list()
    }

    /// Returns the element type in which each unit's gradients were last summed over ranks, and
    /// their number, read from the tensors; nothing where a rank shards with nobody.
    pub fn reduced_elements(&self) -> Vec<(DType, usize)> {
        self.schedule.reduced.list()
    }

    /// Returns the scope under which shards are made.
    fn resting_place(&self) -> Scope {
        if !self.config.cpu_offload {
            return self.scope.clone();
        }
        let device = Device::flex().with_autodiff_context_from(self.scope.device());
        self.scope.on(device)
    }

    fn name(&self, unit: usize) -> String {
        self.units.lock().unwrap_or_else(PoisonError::into_inner).names[unit].clone()
    }

    fn register(&self, entries: &[ParameterEntry]) -> Result<usize, FsdpError> {
        let path = |entry: &ParameterEntry| {
            self.scope.spec(entry.id).map_or(entry.path.clone(), |spec| spec.path)
        };
        let paths: Vec<_> = entries.iter().map(path).collect();
        let name = common_prefix(&paths);
        let mut units = self.units.lock().unwrap_or_else(PoisonError::into_inner);
        let index = units.names.len();
        for (entry, path) in entries.iter().zip(paths) {
            if let Some(first) = units.owner.insert(entry.id.val(), index) {
                let first = units.names.get(first).unwrap_or(&name).clone();
                return Err(FsdpError::TwoUnits { path, first, second: name });
            }
        }
        units.names.push(name);
        Ok(index)
    }
}

/// Returns the module path that all parameter paths have in common.
fn common_prefix(paths: &[String]) -> String {
    let modules = paths.iter().map(|path| path.rsplit_once('.').map_or("", |(module, _)| module));
    let common = modules
        .map(|module| module.split('.').collect::<Vec<_>>())
        .reduce(|a, b| a.into_iter().zip(b).take_while(|(a, b)| a == b).map(|(a, _)| a).collect());
    common.unwrap_or_default().join(".")
}

/// Splits parameters along dimension 0.
struct Split {
    scope: Scope,
    parts: usize,
    index: usize,
    unit: String,
}

impl MapParam<FsdpError> for Split {
    fn map<const D: usize>(
        &mut self,
        _: &[String],
        param: Param<Tensor<D>>,
    ) -> Result<Param<Tensor<D>>, FsdpError> {
        let split = self.scope.shard_param(param, AxisSet::FSDP, 0, self.parts, self.index);
        split.map_err(|source| FsdpError::Unknown { unit: self.unit.clone(), source })
    }
}

/// Returns the axes over which a gradient is still to be summed after the backward pass.
///
/// Units sum theirs over the ranks that share the parameter; what is left are the other
/// data-parallel axes, and those over which the gradient is partial for reasons of its own.
pub fn axes_to_reduce(layout: &ParamLayout) -> AxisSet {
    AxisSet::LOSS.intersection(layout.sharded_axes().complement()) | layout.partial_gradient
}
