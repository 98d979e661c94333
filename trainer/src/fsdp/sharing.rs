//! What makes a unit a sharded one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use burn::tensor::DType;

use super::Erased;
use super::reduce::{PendingReduction, Target, Unreduced};
use super::schedule::Schedule;
use super::tape::{Sink, Step};
use super::weights::{Keep, Lease, Weights};
use crate::comm::CommError;

/// A forward pass of a unit whose backward is still to come.
pub(crate) trait Pass: Send + Sync {
    /// Issues the gather that the backward will need.
    fn prefetch(&self) -> Result<(), CommError>;
}

/// The shards of one unit on one rank: how they are gathered, and how their gradients are reduced.
#[derive(Debug)]
pub(crate) struct Sharing {
    /// Number of the unit on its rank.
    pub(crate) unit: usize,
    pub(crate) weights: Arc<Weights>,
    pub(crate) keep: Keep,
    /// Whether gradients stay whole over the microbatches of a step.
    pub(crate) keeps_whole_gradients: bool,
    /// Element types of what enters and leaves the body, where they are to be cast.
    pub(crate) input_dtype: Option<DType>,
    pub(crate) output_dtype: Option<DType>,
    pub(crate) reduce_dtype: Option<DType>,
    pub(crate) schedule: Arc<Schedule>,
    pub(crate) unreduced: Unreduced,
    /// Whether the last backward pass read whole parameters; a lookup's does not.
    pub(crate) backward_reads: AtomicBool,
}

impl Sharing {
    /// Makes the same for other values of the parameters.
    pub(crate) fn renewed(&self, schedule: Arc<Schedule>) -> Self {
        Self {
            unit: self.unit,
            weights: Arc::new(self.weights.renewed()),
            keep: self.keep,
            keeps_whole_gradients: self.keeps_whole_gradients,
            input_dtype: self.input_dtype,
            output_dtype: self.output_dtype,
            reduce_dtype: self.reduce_dtype,
            schedule,
            unreduced: Unreduced::default(),
            backward_reads: AtomicBool::new(self.backward_reads.load(Ordering::Relaxed)),
        }
    }

    /// Returns how long gathered parameters stay.
    pub(crate) fn keep(&self) -> Keep {
        if self.schedule.keeps_unit(self.unit) { self.keep.max(Keep::Backward) } else { self.keep }
    }

    /// Gathers for a forward pass.
    ///
    /// # Communication
    ///
    /// The gathers of the unit, if it is not under way, and of those ahead.
    pub(crate) fn gather(&self, shards: &[Erased]) -> Result<Lease, CommError> {
        // Its own gather first, then those ahead.
        self.weights.issue(shards)?;
        self.schedule.forward(self.unit)?;
        let lease = self.weights.acquire(shards)?;
        let elements = self.weights.layout().num_elements();
        self.schedule.gathered.note(self.unit, lease.tensors()[0].dtype(), elements);
        Ok(lease)
    }

    /// Sends the gradients of whole parameters to their shards; `None` counts as zero.
    ///
    /// # Communication
    ///
    /// One reduce-scatter, unless gradients are to be kept for a later microbatch.
    pub(crate) fn reduce(
        &self,
        gradients: Vec<Option<Erased>>,
        targets: &[Option<Target>],
        sink: &mut Sink<'_>,
    ) -> Result<(), CommError> {
        let dtype = self
            .reduce_dtype
            .or_else(|| targets.iter().flatten().next().map(|target| target.dtype));
        let Some(dtype) = dtype else { return Ok(()) };
        let cast = |gradient: Option<Erased>| gradient.map(|gradient| gradient.cast(dtype));
        let gradients = gradients.into_iter().map(cast).collect();
        if !self.schedule.syncs() && self.keeps_whole_gradients {
            self.unreduced.add(gradients);
            return Ok(());
        }
        let gradients = self.unreduced.take_with(gradients);
        let layout = self.weights.layout();
        // A parameter that this rank did not use is a zero to the others, and the call is made in
        // any case: they may have used it.
        let filled = |(index, gradient): (usize, Option<Erased>)| {
            targets[index].is_some().then(|| {
                gradient.unwrap_or_else(|| layout.zeros(index, dtype, self.weights.device()))
            })
        };
        let whole: Vec<_> = gradients.into_iter().enumerate().filter_map(filled).collect();
        let layout = layout.filter(|index| targets[index].is_some());
        let targets = targets.iter().flatten().cloned().collect();
        if self.weights.group().size() > 1 {
            self.schedule.reduced.note(self.unit, whole[0].dtype(), layout.num_elements());
        }
        let reduction = PendingReduction::issue(
            self.weights.name(),
            self.weights.group(),
            layout,
            &whole,
            targets,
        )?;
        drop(whole);
        self.schedule.reducing(reduction, sink)
    }
}

/// Waits for what is left of the reductions when the backward pass ends.
pub(crate) struct Drain(pub(crate) Option<Arc<Sharing>>);

impl Step for Drain {
    fn run(&self, sink: &mut Sink<'_>) {
        if let Some(sharing) = &self.0 {
            check(sharing.schedule.finish_reductions(0, sink));
        }
    }
}

/// Leaves a place from which no error can be returned, as all communication in the backward pass
/// does.
pub(crate) fn check<T>(result: Result<T, CommError>) -> T {
    result.unwrap_or_else(|error| std::panic::panic_any(error))
}

/// Runs something at most once.
#[derive(Debug, Default)]
pub(crate) struct Once(OnceLock<()>);

impl Once {
    pub(crate) fn is_first(&self) -> bool {
        self.0.set(()).is_ok()
    }
}
