//! The gathered parameters of a unit: when they exist, and who still needs them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::tensor::{DType, Device};

use super::flat::FlatLayout;
use super::{Erased, GatheredBytes};
use crate::comm::{Collective, CommError, ProcessGroup, TensorWork};

/// How long gathered parameters stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Keep {
    /// Until the end of the unit's forward pass; backward gathers again.
    Forward,
    /// Until the end of the unit's backward pass.
    Backward,
    /// Until the parameters change.
    Update,
}

/// Gathers the parameters of one unit on one rank.
#[derive(Debug)]
pub(crate) struct Weights {
    name: Arc<str>,
    layout: FlatLayout,
    group: ProcessGroup,
    dtype: Option<DType>,
    /// Whether they stay when no lease is left.
    keeps: bool,
    /// Where the unit computes; its shards may rest elsewhere.
    device: Device,
    live: Arc<GatheredBytes>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    weights: Gathered,
    leases: usize,
}

#[derive(Debug, Default)]
enum Gathered {
    #[default]
    No,
    Issued(Box<TensorWork>),
    Yes(Vec<Erased>),
}

/// Keeps gathered parameters in place while it lives.
#[derive(Debug)]
pub(crate) struct Lease {
    weights: Arc<Weights>,
    tensors: Vec<Erased>,
}

impl Lease {
    /// Returns the whole parameters, plain.
    pub(crate) fn tensors(&self) -> &[Erased] {
        &self.tensors
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.weights.lock();
        state.leases -= 1;
        if state.leases == 0 && !self.weights.keeps {
            state.weights = Gathered::No;
        }
    }
}

impl Weights {
    pub(crate) fn new(
        name: Arc<str>,
        layout: FlatLayout,
        group: ProcessGroup,
        dtype: Option<DType>,
        keeps: bool,
        device: Device,
        live: Arc<GatheredBytes>,
    ) -> Self {
        Self { name, layout, group, dtype, keeps, device, live, state: Mutex::default() }
    }

    /// Makes the same for other values of the parameters.
    pub(crate) fn renewed(&self) -> Self {
        Self {
            name: Arc::clone(&self.name),
            layout: self.layout.clone(),
            group: self.group.clone(),
            device: self.device.clone(),
            live: Arc::clone(&self.live),
            state: Mutex::default(),
            ..*self
        }
    }

    /// Returns the name of the unit.
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(crate) fn layout(&self) -> &FlatLayout {
        &self.layout
    }

    pub(crate) fn group(&self) -> &ProcessGroup {
        &self.group
    }

    /// Returns the plain device on which the unit computes.
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// Issues the gather if the parameters are not there and not on their way.
    ///
    /// # Communication
    ///
    /// One all-gather of all parameters of the unit, in the element type of computation; none on a rank alone.
    pub(crate) fn issue(&self, shards: &[Erased]) -> Result<(), CommError> {
        let mut state = self.lock();
        if matches!(state.weights, Gathered::No) {
            state.weights = self.gather(shards)?;
        }
        Ok(())
    }

    /// Returns the whole parameters and keeps them until the lease is dropped.
    pub(crate) fn acquire(self: &Arc<Self>, shards: &[Erased]) -> Result<Lease, CommError> {
        let mut state = self.lock();
        let weights = match std::mem::take(&mut state.weights) {
            Gathered::No => self.gather(shards)?,
            weights => weights,
        };
        let tensors = match weights {
            Gathered::Yes(tensors) => tensors,
            Gathered::Issued(work) => {
                let span = tracing::trace_span!("all_gather", unit = &*self.name);
                let gathered = span.in_scope(|| work.wait())?;
                let tensors = self.layout.unpack_whole(gathered);
                self.live.watch(&tensors);
                tensors
            }
            Gathered::No => unreachable!("a gather was issued or is over"),
        };
        state.weights = Gathered::Yes(tensors.clone());
        state.leases += 1;
        Ok(Lease { weights: Arc::clone(self), tensors })
    }

    /// Issues the gather; a rank that holds everything has nothing to wait for.
    fn gather(&self, shards: &[Erased]) -> Result<Gathered, CommError> {
        let _issue = tracing::trace_span!("issue all_gather", unit = &*self.name).entered();
        let dtype = self.dtype.unwrap_or_else(|| shards[0].dtype());
        let cast = shards.iter().map(|shard| shard.clone().cast(dtype));
        if self.group.size() == 1 {
            let own: Vec<_> = cast.map(|tensor| tensor.moved_to(&self.device)).collect();
            self.live.watch(&own);
            return Ok(Gathered::Yes(own));
        }
        let cast: Vec<_> = cast.collect();
        let part = self.layout.pack_part(&cast).moved_to(&self.device);
        let work = self.group.issue_with(Collective::AllGather { dim: 0 }, part)?;
        Ok(Gathered::Issued(Box::new(work)))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
