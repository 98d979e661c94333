//! The gradients of a unit on their way to the shards.

use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::{DType, Device};

use super::Erased;
use super::flat::FlatLayout;
use super::tape::{Place, Sink, Tie};
use crate::comm::{Collective, CommError, ProcessGroup, ReduceOp, TensorWork};

/// Gradients of whole parameters that were not reduced yet, by parameter.
#[derive(Debug, Default)]
pub(crate) struct Unreduced(Mutex<Vec<Option<Erased>>>);

impl Unreduced {
    /// Keeps gradients for later.
    pub(crate) fn add(&self, gradients: Vec<Option<Erased>>) {
        let sum = self.take_with(gradients);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = sum;
    }

    /// Takes what was kept, added to `gradients`.
    pub(crate) fn take_with(&self, gradients: Vec<Option<Erased>>) -> Vec<Option<Erased>> {
        let mut kept = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        kept.resize(gradients.len(), None);
        let add = |(kept, new): (Option<Erased>, Option<Erased>)| match (kept, new) {
            (Some(kept), Some(new)) => Some(kept.add(new)),
            (kept, new) => kept.or(new),
        };
        kept.into_iter().zip(gradients).map(add).collect()
    }
}

/// Where the gradient of a shard goes, what type it has and where it rests.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) place: Place,
    pub(crate) dtype: DType,
    pub(crate) device: Device,
}

impl Target {
    /// Names the target of each parameter that has a tie.
    pub(crate) fn of(values: &[Erased], ties: &[Option<Tie>]) -> Vec<Option<Self>> {
        let target = |(value, tie): (&Erased, &Option<Tie>)| {
            let place = tie.as_ref()?.place().clone();
            Some(Self { place, dtype: value.dtype(), device: value.device() })
        };
        values.iter().zip(ties).map(target).collect()
    }
}

/// A reduction under way.
pub(crate) struct PendingReduction {
    name: Arc<str>,
    gradients: Reduced,
    targets: Vec<Target>,
}

/// Where reduced gradients come from.
enum Reduced {
    /// This rank's part of the flat buffer.
    Part { work: Box<TensorWork>, layout: FlatLayout, rank: usize },
    /// A rank alone has them already.
    Own(Vec<Erased>),
}

impl PendingReduction {
    /// Issues the reduction of whole gradients to shards.
    ///
    /// # Communication
    ///
    /// One reduce-scatter of the gradients of a unit, summed in their element type; none on a rank alone.
    pub(crate) fn issue(
        name: &Arc<str>,
        group: &ProcessGroup,
        layout: FlatLayout,
        gradients: &[Erased],
        targets: Vec<Target>,
    ) -> Result<Self, CommError> {
        let name = Arc::clone(name);
        if group.size() == 1 {
            return Ok(Self { name, gradients: Reduced::Own(gradients.to_vec()), targets });
        }
        let _issue = tracing::trace_span!("issue reduce_scatter", unit = &*name).entered();
        let collective = Collective::ReduceScatter { dim: 0, op: ReduceOp::Sum };
        let work = group.issue_with(collective, layout.pack_whole(gradients))?;
        let gradients = Reduced::Part { work: Box::new(work), layout, rank: group.rank() };
        Ok(Self { name, gradients, targets })
    }

    /// Waits and hands out the gradients of the shards.
    pub(crate) fn finish(self, sink: &mut Sink<'_>) -> Result<(), CommError> {
        let span = tracing::trace_span!("reduce_scatter", unit = &*self.name);
        let shards = match self.gradients {
            Reduced::Part { work, layout, rank } => {
                layout.unpack_part(span.in_scope(|| work.wait())?, rank)
            }
            Reduced::Own(gradients) => gradients,
        };
        for (target, gradient) in self.targets.into_iter().zip(shards) {
            sink(&target.place, gradient.cast(target.dtype).moved_to(&target.device));
        }
        Ok(())
    }
}
