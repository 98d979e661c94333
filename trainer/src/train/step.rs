//! What a training step may do: backward passes and optimizer updates.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::Tensor;

use super::layouts::Layouts;
use super::muon;
use super::{Loss, NonFinitePolicy, Replicate, Result, TrainError, TrainingStep};
use crate::callbacks::{CallbackSet, RunView};
use crate::comm::{CommError, MeshComm, ReduceOp};
use crate::fsdp::FullyShard;
use crate::kernels;
use crate::mesh::AxisSet;
use crate::metrics::PrecisionReport;
use crate::nn;
use crate::optim::{GradScaler, Optimizer, clip_scale};

/// An optimizer and the parameters it owns.
#[derive(Debug)]
pub(crate) struct Owned {
    pub(crate) optimizer: Optimizer,
    pub(crate) prefix: String,
}

/// Tells whether a parameter lies at or below a dotted prefix.
pub(crate) fn is_below(path: &str, prefix: &str) -> bool {
    prefix.is_empty()
        || path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The tools of one training step, handed to [`TrainingStep::training_step`].
///
/// Every data-parallel rank must make the same calls in the same order.
pub struct StepContext<'a> {
    pub(crate) step: u64,
    pub(crate) lr_factor: f64,
    pub(crate) num_targets: u64,
    pub(crate) max_grad_norm: f64,
    pub(crate) on_nonfinite: NonFinitePolicy,
    pub(crate) comm: &'a MeshComm,
    pub(crate) replicate: &'a Replicate,
    pub(crate) layouts: &'a Layouts,
    pub(crate) fully_shard: Option<&'a FullyShard>,
    pub(crate) grad_scaler: Option<&'a GradScaler>,
    pub(crate) optimizers: &'a mut [Owned],
    pub(crate) callbacks: &'a mut CallbackSet,
    pub(crate) run: &'a RunView,
    pub(crate) gradients: BTreeMap<String, Tensor<1>>,
    pub(crate) loss: Option<Tensor<1>>,
    pub(crate) outcome: Outcome,
}

/// What the optimizer updates of a step left behind.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) squared_norm: f64,
    pub(crate) skipped: bool,
    /// Whether a gradient left the range of its type because of the loss scale.
    pub(crate) overflowed: bool,
    /// Element types that the step saw.
    pub(crate) precision: PrecisionReport,
    pub(crate) extra: BTreeMap<String, f64>,
}

impl StepContext<'_> {
    /// Returns the number of this optimizer step, from 1.
    pub fn step_number(&self) -> u64 {
        self.step
    }

    /// Returns the number of targets that count in this step, over all ranks and microbatches.
    pub fn num_targets(&self) -> u64 {
        self.num_targets
    }

    /// Returns what losses are multiplied by for the backward pass; the norm and the update of
    /// [`StepContext::step`] divide by it again. 1 unless the model computes in `f16`.
    pub fn loss_scale(&self) -> f64 {
        self.grad_scaler.map_or(1.0, GradScaler::scale)
    }

    /// Runs forward and backward on each microbatch and accumulates gradients.
    ///
    /// # Errors
    ///
    /// Those of the recipe's hooks.
    pub fn forward_backward<S: TrainingStep + ?Sized>(
        &mut self,
        setup: &S,
        model: &S::Model,
        batches: &[S::Batch],
    ) -> Result<()> {
        for (index, batch) in batches.iter().enumerate() {
            if let Some(fully_shard) = self.fully_shard {
                fully_shard.set_last_microbatch(index + 1 == batches.len());
            }
            let _microbatch = tracing::trace_span!("microbatch", microbatch = index).entered();
            let forward = || setup.loss(model, setup.forward(model, batch)?, batch);
            let loss = tracing::trace_span!("forward").in_scope(forward)?;
            self.backward(model, loss)?;
        }
        Ok(())
    }

    /// Adds the gradients of a loss for all parameters.
    ///
    /// # Errors
    ///
    /// The loss does not depend on any parameter.
    pub fn backward<M: Module>(&mut self, model: &M, loss: Loss) -> Result<()> {
        self.backward_where(model, loss, |_| true)
    }

    /// Adds the gradients of a loss for the parameters of one optimizer; those of others are
    /// dropped.
    ///
    /// # Errors
    ///
    /// There is no such optimizer, or the loss does not depend on any parameter.
    pub fn backward_for<M: Module>(
        &mut self,
        model: &M,
        loss: Loss,
        optimizer: &str,
    ) -> Result<()> {
        let prefix = self.find(optimizer).map(|index| self.optimizers[index].prefix.clone())?;
        self.backward_where(model, loss, |path| is_below(path, &prefix))
    }

    fn backward_where<M: Module>(
        &mut self,
        model: &M,
        loss: Loss,
        keep: impl Fn(&str) -> bool,
    ) -> Result<()> {
        let sum = loss.into_sum();
        if !sum.is_tracked() {
            return Err("the loss does not depend on any parameter that takes gradients".into());
        }
        let value = sum.clone().inner();
        self.loss = Some(match self.loss.take() {
            Some(total) => total + value,
            None => value,
        });
        self.outcome.precision.loss.add(sum.dtype(), 1);
        let scaled = sum * (self.loss_scale() / self.num_targets as f64);
        let backward = tracing::trace_span!("backward");
        let mut gradients = backward.in_scope(|| scaled.backward());
        let store = &mut self.gradients;
        nn::take_gradients(model, &mut gradients, |path, gradient| {
            if keep(path) {
                let gradient = match store.remove(path) {
                    Some(total) => kernels::accumulate(total, gradient),
                    None => gradient,
                };
                store.insert(path.into(), gradient);
            }
        });
        Ok(())
    }

    /// Reduces the gradients of one optimizer over the data-parallel ranks, clips them by their
    /// global norm and updates its parameters.
    ///
    /// # Communication
    ///
    /// All-reduces of the gradients over the copies of the model.
    ///
    /// # Errors
    ///
    /// There is no such optimizer, ranks cannot communicate, or a gradient is not finite, a lower
    /// loss scale would not help and the policy is to stop.
    pub fn step<M: Module>(&mut self, model: M, optimizer: &str) -> Result<M, TrainError> {
        let index = self.find(optimizer)?;
        let prefix = &self.optimizers[index].prefix;
        let mut gradients: BTreeMap<_, _> =
            self.gradients.extract_if(.., |path, _| is_below(path, prefix)).collect();
        let reduce = tracing::trace_span!("reduce_gradients");
        let traveled = reduce.in_scope(|| self.replicate.reduce(&mut gradients, self.layouts))?;
        let seen = gradients.values().map(|gradient| (gradient.dtype(), gradient.dims()[0]));
        self.outcome.precision.gradients.extend(seen);
        self.outcome.precision.reduction.merge(traveled);
        self.callbacks.pre_optimizer_step(self.run, optimizer)?;

        let loss_scale = self.loss_scale();
        let measure = tracing::trace_span!("gradient_norm");
        let squared = measure.in_scope(|| {
            let squares = kernels::sums_of_squares(&gradients.values().collect::<Vec<_>>());
            let squares = gradients.keys().map(String::as_str).zip(squares);
            self.layouts.global_square(squares, self.comm)
        })?;
        let squared = squared / loss_scale.powi(2);
        self.outcome.squared_norm += squared;
        let norm = squared.sqrt();
        if !norm.is_finite() {
            return self.skip_or_stop(model, norm);
        }
        let scale = clip_scale(norm, self.max_grad_norm) / loss_scale;
        let owned = &mut self.optimizers[index].optimizer;
        let lr = owned.plan().lr * self.lr_factor;
        let _optimizer = tracing::trace_span!("optimizer").entered();
        owned.begin();
        muon::orthogonalize(&mut gradients, owned, scale, self.layouts, self.comm)?;
        let model = nn::map_values(model, |entry, value| {
            Ok::<_, TrainError>(match gradients.remove(&entry.path) {
                Some(gradient) => owned.update(&entry.path, value, gradient, lr, scale),
                None => value,
            })
        })?;
        self.callbacks.post_optimizer_step(self.run, optimizer, lr)?;
        Ok(model)
    }

    /// Reports a scalar with the step's metrics; repeated reports add up.
    pub fn report(&mut self, name: impl Into<String>, value: f64) {
        *self.outcome.extra.entry(name.into()).or_default() += value;
    }

    fn find(&self, name: &str) -> Result<usize, TrainError> {
        self.optimizers.iter().position(|owned| owned.optimizer.name() == name).ok_or_else(|| {
            TrainError::UnknownOptimizer {
                name: name.into(),
                known: self
                    .optimizers
                    .iter()
                    .map(|owned| format!("`{}`", owned.optimizer.name()))
                    .collect::<Vec<_>>()
                    .join(", "),
            }
        })
    }

    /// The norm is equal on all ranks, so they take the same way.
    fn skip_or_stop<M>(&mut self, model: M, norm: f64) -> Result<M, TrainError> {
        if self.grad_scaler.is_some_and(GradScaler::can_back_off) {
            self.outcome.skipped = true;
            self.outcome.overflowed = true;
            return Ok(model);
        }
        match self.on_nonfinite {
            NonFinitePolicy::Skip => {
                self.outcome.skipped = true;
                Ok(model)
            }
            NonFinitePolicy::Stop => {
                let local = self.loss.as_ref().map_or(f64::NAN, scalar);
                Err(nonfinite(self.comm, self.step, "the gradient norm", norm, !local.is_finite())?)
            }
        }
    }
}

/// Returns the value of a tensor of one element.
pub(crate) fn scalar(tensor: &Tensor<1>) -> f64 {
    tensor.clone().into_data().iter::<f64>().next().unwrap_or(f64::NAN)
}

/// Agrees on the first rank whose own loss was not finite and names it.
pub(crate) fn nonfinite(
    comm: &MeshComm,
    step: u64,
    what: &'static str,
    value: f64,
    seen_here: bool,
) -> Result<TrainError, CommError> {
    let rank = comm.rank();
    let mut first = [if seen_here { rank as f64 } else { f64::INFINITY }];
    comm.group(AxisSet::WORLD).all_reduce_scalars(&mut first, ReduceOp::Min)?;
    let place = if first[0].is_finite() {
        let rank = first[0] as usize;
        format!("rank {rank} ({})", comm.mesh().coordinate(rank))
    } else {
        "no single rank: every loss was finite".into()
    };
    Ok(TrainError::NonFinite { what, value, step, place })
}
