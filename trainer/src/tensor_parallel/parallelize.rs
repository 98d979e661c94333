//! [`TensorParallel`]: a plan applied to a model.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::layer::StyledLayer;
use super::resolve::resolve;
use super::{LayerPlacement, ParamPlacement, Plan, ResolvedPlan, TensorParallelError};
use crate::comm::ProcessGroup;
use crate::mesh::{Axis, Neighbors, Placement};
use crate::nn::{self, LayerKind, MapParam, Scope};

/// What plans choose by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorParallelOptions {
    /// Whether activations between the split products lie in parts of the sequence.
    pub sequence_parallel: bool,
    /// Whether the loss works on parts of the vocabulary instead of gathered logits.
    pub loss_parallel: bool,
    /// Whether products run while parts of their inputs or outputs travel.
    pub overlap: bool,
}

impl Default for TensorParallelOptions {
    fn default() -> Self {
        Self { sequence_parallel: true, loss_parallel: true, overlap: false }
    }
}

/// Applies plans on one rank of the tensor-parallel axis.
#[derive(Debug)]
pub struct TensorParallel {
    scope: Scope,
    ranks: Ranks,
    options: TensorParallelOptions,
    resolved: Mutex<Vec<ResolvedPlan>>,
}

#[derive(Debug)]
enum Ranks {
    Group(ProcessGroup),
    /// Only a number: plans are checked and nothing is changed.
    Planned(usize),
}

impl TensorParallel {
    /// Starts from the scope under which the model was built and the group of the tensor-parallel
    /// axis.
    pub fn new(scope: Scope, group: ProcessGroup, options: TensorParallelOptions) -> Self {
        Self { scope, ranks: Ranks::Group(group), options, resolved: Mutex::default() }
    }

    /// Starts without ranks: [`Self::parallelize`] then checks and records plans but leaves models
    /// as they are.
    pub fn planned(scope: Scope, degree: usize, options: TensorParallelOptions) -> Self {
        Self { scope, ranks: Ranks::Planned(degree), options, resolved: Mutex::default() }
    }

    /// Returns the number of ranks.
    pub fn degree(&self) -> usize {
        match &self.ranks {
            Ranks::Group(group) => group.size(),
            Ranks::Planned(degree) => *degree,
        }
    }

    /// Returns the options.
    pub fn options(&self) -> TensorParallelOptions {
        self.options
    }

    /// Checks that sequences split evenly, where the options split them.
    ///
    /// # Errors
    ///
    /// They do not.
    pub fn check_sequence(&self, length: usize) -> Result<(), TensorParallelError> {
        let degree = self.degree();
        if self.options.sequence_parallel && !length.is_multiple_of(degree) {
            return Err(TensorParallelError::SequenceLength { length, degree });
        }
        Ok(())
    }

    /// Checks a plan against the model and returns what each rank will hold. It makes no tensor and
    /// needs no other rank.
    ///
    /// # Errors
    ///
    /// See [`TensorParallelError`].
    pub fn resolve(&self, plan: &Plan) -> Result<ResolvedPlan, TensorParallelError> {
        let (layers, specs) = (self.scope.layers(), self.scope.specs());
        resolve(plan, &layers, &specs, self.degree(), self.options.overlap)
    }

    /// Returns the plans that were applied, in order.
    pub fn resolved(&self) -> Vec<ResolvedPlan> {
        self.resolved.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gives the layers of a model their styles and leaves this rank with its block of each
    /// parameter.
    ///
    /// The whole plan is checked before anything changes. Parameters keep their identity and stay
    /// without values; each rank will make only its own block, and no rank ever the whole.
    ///
    /// # Communication
    ///
    /// None.
    ///
    /// # Errors
    ///
    /// See [`TensorParallelError`].
    pub fn parallelize<M: Module>(&self, model: M, plan: &Plan) -> Result<M, TensorParallelError> {
        let layers = self.scope.layers();
        let resolved = self.resolve(plan)?;
        self.resolved.lock().unwrap_or_else(PoisonError::into_inner).push(resolved.clone());
        let group = match &self.ranks {
            Ranks::Group(group) if group.size() > 1 => group,
            _ => return Ok(model),
        };
        if let Some(layer) =
            resolved.layers.iter().find(|layer| layers[&layer.path].style.get().is_some())
        {
            return Err(TensorParallelError::Twice { path: layer.path.clone() });
        }
        for layer in &resolved.layers {
            let style = styled(layer, group, resolved.overlap && resolved.can_overlap(layer));
            // Nobody else holds this rank's scope, and the slot was empty.
            layers[&layer.path].style.set(Arc::new(style));
        }
        let placements =
            resolved.params().map(|param| (param.path.clone(), param.clone())).collect();
        nn::map_params(model, Sharder { scope: &self.scope, group, placements })
    }
}

fn styled(layer: &LayerPlacement, group: &ProcessGroup, overlap: bool) -> StyledLayer {
    let weight = layer.params.iter().find(|param| param.path.ends_with(".weight"));
    let dim = usize::from(layer.kind != LayerKind::Embedding);
    let vocabulary = weight.and_then(|weight| weight.shape.get(dim)).copied();
    StyledLayer {
        style: layer.style,
        prepared: layer.prepared,
        group: group.clone(),
        vocabulary: vocabulary.unwrap_or_default(),
        overlap,
    }
}

struct Sharder<'a> {
    scope: &'a Scope,
    group: &'a ProcessGroup,
    placements: BTreeMap<String, ParamPlacement>,
}

impl MapParam<TensorParallelError> for Sharder<'_> {
    fn map<const D: usize>(
        &mut self,
        _: &[String],
        param: Param<Tensor<D>>,
    ) -> Result<Param<Tensor<D>>, TensorParallelError> {
        let Some(spec) = self.scope.spec(param.id) else { return Ok(param) };
        let Some(place) = self.placements.get(&spec.path) else { return Ok(param) };
        if place.partial_gradient {
            self.scope.mark_partial_gradient(param.id, Axis::Tp)?;
        }
        if place.copies > 1 {
            let copies = Neighbors { axis: Axis::Tp, count: place.copies };
            self.scope.mark_copies(param.id, copies)?;
        }
        Ok(match place.placement {
            Placement::Shard(dim) => self.scope.shard_param(
                param,
                Axis::Tp,
                dim,
                self.group.size() / place.copies,
                self.group.rank() / place.copies,
            )?,
            Placement::Replicate | Placement::Partial(_) => param,
        })
    }
}
