//! An optimizer over named flat parameters.

use std::collections::BTreeMap;

use burn::tensor::Tensor;

use super::{Algorithm, OptimError, OptimizerPlan};
use crate::kernels::{self, AdamHyper, SgdHyper};

/// Updates parameters and keeps their state by path.
#[derive(Debug)]
pub struct Optimizer {
    name: String,
    plan: OptimizerPlan,
    num_updates: u64,
    slots: BTreeMap<String, Slots>,
}

/// State tensors of one parameter, flat, in the order of `slot_names`.
type Slots = Vec<Tensor<1>>;

/// Names under which a checkpoint keeps the state of a parameter.
fn slot_names(plan: &OptimizerPlan, path: &str) -> &'static [&'static str] {
    match plan.algorithm {
        Algorithm::Muon { .. } if plan.is_orthogonalized(path) => &["momentum_buffer"],
        Algorithm::Muon { .. } => &["exp_avg", "exp_avg_sq"],
        algorithm @ (Algorithm::Adam { .. } | Algorithm::Sgd { .. }) => algorithm.state_names(),
    }
}

impl Optimizer {
    /// Creates an optimizer without state; state appears with a parameter's first update.
    pub fn new(name: impl Into<String>, plan: OptimizerPlan) -> Self {
        Self { name: name.into(), plan, num_updates: 0, slots: BTreeMap::new() }
    }

    /// Returns the name it was registered under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns its validated settings.
    pub fn plan(&self) -> &OptimizerPlan {
        &self.plan
    }

    /// Returns the names of the tensors it keeps for a parameter once it was updated.
    pub fn state_names(&self, path: &str) -> &'static [&'static str] {
        slot_names(&self.plan, path)
    }

    /// Returns how many updates were begun.
    pub fn num_updates(&self) -> u64 {
        self.num_updates
    }

    /// Begins an update; call once before [`Optimizer::update`] is called for each parameter.
    pub fn begin(&mut self) {
        self.num_updates += 1;
    }

    /// Updates one parameter.
    ///
    /// `lr` is the scheduled rate before the parameter's own factor; the gradient is multiplied by
    /// `grad_scale` first. Buffers are reused where nobody else holds them. Of a parameter that is
    /// [orthogonalized](OptimizerPlan::is_orthogonalized) `grad` is the orthogonal direction, which
    /// comes from [`Optimizer::momentum`].
    ///
    /// # Shapes
    ///
    /// `param` and `grad` are the flat parameter (or local shard) and its gradient, both `[n]`.
    pub fn update(
        &mut self,
        path: &str,
        param: Tensor<1>,
        grad: Tensor<1>,
        lr: f64,
        grad_scale: f64,
    ) -> Tensor<1> {
        let settings = self.plan.settings(path);
        let (lr, weight_decay) = (lr * settings.lr_scale, settings.weight_decay);
        let step = self.num_updates;
        let adam = |[beta1, beta2]: [f64; 2], eps, decoupled| AdamHyper {
            lr,
            beta1,
            beta2,
            eps,
            weight_decay,
            decoupled,
            step,
            grad_scale,
        };
        match self.plan.algorithm {
            Algorithm::Muon { .. } if self.plan.is_orthogonalized(path) => {
                let step = SgdHyper {
                    lr,
                    momentum: 0.0,
                    dampening: 0.0,
                    nesterov: false,
                    weight_decay,
                    grad_scale: 1.0,
                };
                kernels::sgd_step(param, grad, None, &step).0
            }
            Algorithm::Muon { betas, eps, .. } => {
                self.update_adam(path, param, grad, &adam(betas, eps, true))
            }
            Algorithm::Adam { betas, eps, decoupled } => {
                self.update_adam(path, param, grad, &adam(betas, eps, decoupled))
            }
            Algorithm::Sgd { momentum, nesterov } => {
                let hyper =
                    SgdHyper { lr, momentum, dampening: 0.0, nesterov, weight_decay, grad_scale };
                let buffer = self.slots.remove(path).and_then(|mut slots| slots.pop());
                let (param, buffer) = kernels::sgd_step(param, grad, buffer, &hyper);
                self.slots.insert(path.into(), buffer.into_iter().collect());
                param
            }
        }
    }

    /// Adds a gradient to the momentum of a parameter that is orthogonalized and returns the
    /// direction that is to be made orthogonal.
    ///
    /// # Shapes
    ///
    /// `[n]`, the flat parameter or local shard, to the same.
    ///
    /// # Panics
    ///
    /// If the algorithm is not [`Algorithm::Muon`].
    pub fn momentum(&mut self, path: &str, grad: Tensor<1>, grad_scale: f64) -> Tensor<1> {
        let Algorithm::Muon { momentum, nesterov, .. } = self.plan.algorithm else {
            panic!("only `muon` makes momentum orthogonal")
        };
        if kernels::is_empty(&grad) {
            self.slots.insert(path.into(), vec![grad.clone()]);
            return grad;
        }
        let grad = grad * grad_scale;
        let buffer = match self.slots.remove(path).and_then(|mut slots| slots.pop()) {
            Some(buffer) => buffer * momentum + grad.clone(),
            None => grad.clone(),
        };
        self.slots.insert(path.into(), vec![buffer.clone()]);
        if nesterov { grad + buffer * momentum } else { buffer }
    }

    fn update_adam(
        &mut self,
        path: &str,
        param: Tensor<1>,
        grad: Tensor<1>,
        hyper: &AdamHyper,
    ) -> Tensor<1> {
        let [exp_avg, exp_avg_sq] = self.take_adam(path, &param);
        let (param, exp_avg, exp_avg_sq) =
            kernels::adamw_step(param, grad, exp_avg, exp_avg_sq, hyper);
        self.slots.insert(path.into(), vec![exp_avg, exp_avg_sq]);
        param
    }

    fn take_adam(&mut self, path: &str, param: &Tensor<1>) -> [Tensor<1>; 2] {
        self.slots
            .remove(path)
            .and_then(|slots| <[Tensor<1>; 2]>::try_from(slots).ok())
            .unwrap_or_else(|| {
                let zeros = || {
                    if kernels::is_empty(param) { param.clone() } else { param.zeros_like() }
                };
                [zeros(), zeros()]
            })
    }

    /// Lists state as `(slot name, parameter path, tensor)`, ordered by path.
    pub fn state(&self) -> impl Iterator<Item = (&'static str, &str, &Tensor<1>)> {
        self.slots.iter().flat_map(|(path, slots)| {
            let names = slot_names(&self.plan, path);
            names.iter().zip(slots).map(move |(name, slot)| (*name, path.as_str(), slot))
        })
    }

    /// Takes back the number of updates and, through `read(slot name, path)`, the state of every
    /// parameter in `sizes` (path and elements).
    ///
    /// # Errors
    ///
    /// State of the wrong size; state missing although updates were done.
    pub fn restore<'a, E: From<OptimError>>(
        &mut self,
        num_updates: u64,
        sizes: impl Iterator<Item = (&'a str, usize)>,
        mut read: impl FnMut(&str, &str) -> Result<Option<Tensor<1>>, E>,
    ) -> Result<(), E> {
        self.num_updates = num_updates;
        self.slots.clear();
        for (path, expected) in sizes {
            let names = slot_names(&self.plan, path);
            let mut slots = Slots::new();
            for key in names {
                let Some(slot) = read(key, path)? else { continue };
                let found = slot.dims()[0];
                if found != expected {
                    return Err(OptimError::StateSize {
                        key: (*key).into(),
                        path: path.into(),
                        found,
                        expected,
                    }
                    .into());
                }
                slots.push(slot);
            }
            if !slots.is_empty() && slots.len() != names.len() {
                return Err(OptimError::StateMissing {
                    key: names[slots.len()].into(),
                    path: path.into(),
                }
                .into());
            }
            if !slots.is_empty() {
                self.slots.insert(path.into(), slots);
            }
        }
        Ok(())
    }
}
