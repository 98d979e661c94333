//! A unit whose activations are made again in the backward pass.
//!
//! # References
//!
//! Chen, Xu, Zhang and Guestrin, "Training deep nets with sublinear memory cost", arXiv:1604.06174.

use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::GradientCheckpointingStrategy;
use burn::module::Module;
use burn::tensor::{Gradients, Tensor};

use super::reduce::Target;
use super::sharing::{Drain, Pass, Sharing, check};
use super::tape::{self, Emission, GradientSlot, Sink, Step, Tie};
use super::weights::{Keep, Lease};
use super::{Erased, FloatTensors, erased, inline, params};
use crate::comm::CommError;
use crate::kernels;

/// Runs the body on given parameters and inputs.
type Rerun = Box<dyn FnOnce(Vec<Erased>, Vec<Erased>) -> Vec<Erased> + Send>;

struct RecomputePass {
    sharing: Option<Arc<Sharing>>,
    shards: Vec<Erased>,
    targets: Vec<Option<Target>>,
    inputs: Mutex<Vec<Erased>>,
    input_ties: Vec<Option<Tie>>,
    gradients: Vec<GradientSlot>,
    strategy: Option<GradientCheckpointingStrategy>,
    rerun: Mutex<Option<Rerun>>,
    lease: Mutex<Option<Lease>>,
}

impl Pass for RecomputePass {
    fn prefetch(&self) -> Result<(), CommError> {
        self.sharing.as_ref().map_or(Ok(()), |sharing| sharing.weights.issue(&self.shards))
    }
}

impl RecomputePass {
    /// Gives the parameters the gradients of a backward pass that was run on the body alone.
    fn backward(&self, rerun: Rerun) -> (Vec<Option<Erased>>, Vec<Option<Erased>>) {
        let held = self.lease.lock().unwrap_or_else(PoisonError::into_inner).take();
        let acquire = |sharing: &Arc<Sharing>| check(sharing.weights.acquire(&self.shards));
        let lease = held.or_else(|| self.sharing.as_ref().map(acquire));
        let weights = lease.as_ref().map_or(&self.shards[..], Lease::tensors);
        let leaf = |(value, trained): (&Erased, bool)| {
            let value = value.clone().lift(self.strategy);
            if trained { value.require_grad() } else { value }
        };
        let weights: Vec<_> =
            weights.iter().zip(self.targets.iter().map(Option::is_some)).map(leaf).collect();
        let inputs =
            std::mem::take(&mut *self.inputs.lock().unwrap_or_else(PoisonError::into_inner));
        let inputs: Vec<_> =
            inputs.iter().zip(self.input_ties.iter().map(Option::is_some)).map(leaf).collect();
        let outputs = rerun(weights.clone(), inputs.clone());
        let mut gradients = self.inject(&outputs).map(|loss| loss.backward());
        drop(outputs);
        let take = |leaf: &Erased, gradients: &mut Option<Gradients>| {
            leaf.take_gradient(gradients.as_mut()?)
        };
        let of_weights = weights.iter().map(|weight| take(weight, &mut gradients)).collect();
        let of_input = |(input, tie): (&Erased, &Option<Tie>)| {
            tie.as_ref()?;
            Some(take(input, &mut gradients).unwrap_or_else(|| input.clone().inner().zeros_like()))
        };
        let of_inputs = inputs.iter().zip(&self.input_ties).map(of_input).collect();
        (of_weights, of_inputs)
    }

    /// Returns a scalar whose gradient with respect to the outputs is what arrived for them.
    fn inject(&self, outputs: &[Erased]) -> Option<Tensor<1>> {
        let arrived = outputs.iter().zip(&self.gradients).filter(|(output, _)| output.is_tracked());
        let losses = arrived.filter_map(|(output, slot)| Some(tape::inject(output, slot.take()?)));
        losses.reduce(|a, b| a + b)
    }
}

/// Runs the body again, and back.
struct Recompute(Arc<RecomputePass>);

impl Step for Recompute {
    fn run(&self, sink: &mut Sink<'_>) {
        let pass = &self.0;
        let rerun = pass.rerun.lock().unwrap_or_else(PoisonError::into_inner).take();
        let rerun = rerun.expect("the tape runs a step once");
        let (of_weights, of_inputs) = match &pass.sharing {
            Some(sharing) => {
                check(sharing.weights.issue(&pass.shards));
                check(sharing.schedule.backward(sharing.unit));
                let span = tracing::trace_span!("recompute", unit = &**sharing.weights.name());
                span.in_scope(|| sharing.schedule.nested(|| pass.backward(rerun)))
            }
            None => pass.backward(rerun),
        };
        for (tie, gradient) in pass.input_ties.iter().zip(of_inputs) {
            if let (Some(tie), Some(gradient)) = (tie, gradient) {
                sink(tie.place(), gradient);
            }
        }
        match &pass.sharing {
            Some(sharing) => {
                check(sharing.reduce(of_weights, &pass.targets, sink));
            }
            None => {
                for (target, gradient) in pass.targets.iter().zip(of_weights) {
                    if let (Some(target), Some(gradient)) = (target, gradient) {
                        sink(&target.place, gradient);
                    }
                }
            }
        }
    }
}

/// Runs the body of a unit whose activations are not kept. Where nothing is on a tape there is
/// nothing to run again.
pub(crate) fn run<M, I, O>(
    sharing: Option<&Arc<Sharing>>,
    module: &M,
    inputs: I,
    body: impl Fn(&M, I) -> O + Send + 'static,
) -> O
where
    M: Module + 'static,
    I: FloatTensors,
    O: FloatTensors,
{
    let values = params::values(module);
    let inputs = erased::erase(inputs);
    if !values.iter().chain(&inputs).any(Erased::is_tracked) {
        let inputs = erased::restore(inputs);
        return match sharing {
            Some(sharing) => inline::run(sharing, module, inputs, body),
            None => body(module, inputs),
        };
    }
    let strategy =
        values.iter().chain(&inputs).find(|value| value.is_tracked()).and_then(Erased::strategy);
    let plain =
        |values: &[Erased]| values.iter().map(|value| value.clone().inner()).collect::<Vec<_>>();
    let tie = |value: &Erased| value.is_tracked().then(Tie::default);
    let (shards, plain_inputs) = (plain(&values), plain(&inputs));
    kernels::keep(plain_inputs.iter().filter_map(Erased::host_buffer));
    let (ties, input_ties): (Vec<_>, Vec<_>) =
        (values.iter().map(tie).collect(), inputs.iter().map(tie).collect());

    // Without places on a tape, or the pass would keep the tape that it is part of from being
    // reclaimed.
    let template = params::with_values(module.clone(), shards.clone());
    let lease = sharing.map(|sharing| check(sharing.gather(&shards)));
    let weights = lease.as_ref().map_or(&shards[..], Lease::tensors).to_vec();
    let gathered = params::with_values(template.clone(), weights);
    let name = sharing.map_or("", |sharing| sharing.weights.name());
    let span = tracing::trace_span!("forward", unit = name);
    let outputs =
        span.in_scope(|| erased::erase(body(&gathered, erased::restore(plain_inputs.clone()))));
    drop(gathered);

    let rerun: Rerun = Box::new(move |weights, inputs| {
        erased::erase(body(&params::with_values(template, weights), erased::restore(inputs)))
    });
    let kept = sharing.is_some_and(|sharing| sharing.keep() == Keep::Backward);
    let pass = Arc::new(RecomputePass {
        sharing: sharing.cloned(),
        targets: Target::of(&values, &ties),
        shards,
        inputs: Mutex::new(plain_inputs),
        input_ties: input_ties.clone(),
        gradients: outputs.iter().map(|_| GradientSlot::default()).collect(),
        strategy,
        rerun: Mutex::new(Some(rerun)),
        lease: Mutex::new(lease.filter(|_| kept)),
    });
    if let Some(sharing) = sharing {
        let erased: Arc<dyn Pass> = pass.clone();
        sharing.schedule.push(sharing.unit, Arc::downgrade(&erased));
    }

    let (values, ties) = match sharing {
        Some(sharing) => tape::stand_ins(values, ties, sharing.weights.device()),
        None => (values, ties),
    };
    let parents: Vec<_> = values.into_iter().chain(inputs).collect();
    let ties: Vec<_> = ties.into_iter().chain(input_ties).collect();
    let anchor = ties.iter().position(Option::is_some).expect("something is on a tape");
    let token = tape::chain(anchor, &parents, &ties, Arc::new(Drain(sharing.cloned())));
    let token = tape::segment(&token, &Tie::default(), Arc::new(Recompute(Arc::clone(&pass))));
    let emit = |(output, slot): (Erased, &GradientSlot)| {
        tape::emit(&token, &output.inner().lift(strategy), &Emission::new(slot.clone()))
    };
    erased::restore(outputs.into_iter().zip(&pass.gradients).map(emit).collect())
}
