//! A sharded unit whose body is recorded on the tape as usual.
//!
//! The tape holds recipes instead of gathered parameters: backward gathers them again when the
//! first of them is read.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use burn::module::Module;

use super::reduce::Target;
use super::sharing::{Drain, Once, Pass, Sharing, check};
use super::tape::{self, Emission, GradientSlot, Sink, Source, Step, Tie};
use super::weights::{Keep, Lease};
use super::{Erased, FloatTensors, erased, params};
use crate::comm::CommError;

struct InlinePass {
    sharing: Arc<Sharing>,
    shards: Vec<Erased>,
    targets: Vec<Option<Target>>,
    gradients: Vec<GradientSlot>,
    lease: Mutex<Option<Lease>>,
    begun: Once,
}

impl InlinePass {
    fn begin_backward(&self) {
        if self.begun.is_first() {
            check(self.sharing.schedule.backward(self.sharing.unit));
        }
    }

    fn hold(&self, lease: Option<Lease>) -> Option<Lease> {
        std::mem::replace(&mut self.lease.lock().unwrap_or_else(PoisonError::into_inner), lease)
    }
}

impl Pass for InlinePass {
    fn prefetch(&self) -> Result<(), CommError> {
        let gathers = self.sharing.keep() == Keep::Forward
            && self.sharing.backward_reads.load(Ordering::Relaxed);
        if gathers { self.sharing.weights.issue(&self.shards) } else { Ok(()) }
    }
}

impl Source for InlinePass {
    fn value(&self, index: usize) -> Erased {
        check(self.sharing.weights.issue(&self.shards));
        self.begin_backward();
        let mut lease = self.lease.lock().unwrap_or_else(PoisonError::into_inner);
        let lease = lease.get_or_insert_with(|| check(self.sharing.weights.acquire(&self.shards)));
        lease.tensors()[index].clone()
    }
}

/// Reduces the gradients of the parameters.
struct Reduce(Arc<InlinePass>);

impl Step for Reduce {
    fn run(&self, sink: &mut Sink<'_>) {
        let pass = &self.0;
        pass.begin_backward();
        pass.sharing.backward_reads.store(pass.hold(None).is_some(), Ordering::Relaxed);
        let gradients = pass.gradients.iter().map(GradientSlot::take).collect();
        check(pass.sharing.reduce(gradients, &pass.targets, sink));
    }
}

/// Runs the body of a sharded unit.
pub(crate) fn run<M: Module, I: FloatTensors, O: FloatTensors>(
    sharing: &Arc<Sharing>,
    module: &M,
    inputs: I,
    body: impl Fn(&M, I) -> O,
) -> O {
    let values = params::values(module);
    let strategy = values[0].strategy();
    let shards: Vec<_> = values.iter().map(|value| value.clone().inner()).collect();
    let lease = check(sharing.gather(&shards));
    let trained = values.iter().position(Erased::is_tracked);
    let Some(anchor) = trained else {
        let weights = lease.tensors().iter().map(|weight| weight.clone().lift(strategy)).collect();
        return body(&params::with_values(module.clone(), weights), inputs);
    };

    let ties: Vec<_> = values.iter().map(|value| value.is_tracked().then(Tie::default)).collect();
    let pass = Arc::new(InlinePass {
        sharing: Arc::clone(sharing),
        shards,
        targets: Target::of(&values, &ties),
        gradients: values.iter().map(|_| GradientSlot::default()).collect(),
        lease: Mutex::new(None),
        begun: Once::default(),
    });
    let weak: Weak<dyn Pass> = Arc::downgrade(&(Arc::clone(&pass) as Arc<dyn Pass>));
    sharing.schedule.push(sharing.unit, weak);

    let (values, ties) = tape::stand_ins(values, ties, sharing.weights.device());
    let mut token = tape::chain(anchor, &values, &ties, Arc::new(Drain(Some(Arc::clone(sharing)))));
    let mut read = |input: Erased| {
        if !input.is_tracked() {
            return input;
        }
        let (next, input) = tape::tie_read(&token, &input);
        token = next;
        input
    };
    let inputs: Vec<_> = erased::erase(inputs).into_iter().map(&mut read).collect();
    let token = tape::segment(&token, &Tie::default(), Arc::new(Reduce(Arc::clone(&pass))));

    let emit = |(index, weight): (usize, &Erased)| {
        let weight = weight.clone().lift(strategy);
        if pass.targets[index].is_none() {
            return weight;
        }
        let slot = pass.gradients[index].clone();
        let emission = match sharing.keep() {
            Keep::Forward => Emission::from_source(slot, pass.clone(), index),
            Keep::Backward | Keep::Update => Emission::new(slot),
        };
        tape::emit(&token, &weight, &emission)
    };
    let weights = lease.tensors().iter().enumerate().map(emit).collect();
    let gathered = params::with_values(module.clone(), weights);
    let span = tracing::trace_span!("forward", unit = &**sharing.weights.name());
    let outputs = span.in_scope(|| body(&gathered, erased::restore(inputs)));
    if sharing.keep() == Keep::Backward {
        pass.hold(Some(lease));
    }
    outputs
}
