//! Where a run starts: the checkpoint it continues from, and what of its request is still to be done.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{TrainError, save};
use crate::checkpoint::{
    Check, Checkpoint, CheckpointConfig, CheckpointStore, ResetPart, ResumeMode,
};
use crate::comm::{MeshComm, ReduceOp};
use crate::mesh::AxisSet;

/// What a configuration asks of a start beside going on. Each checkpoint records the request of the
/// start that wrote it: a start whose request is that of the newest checkpoint is a restart, which
/// goes on instead of carrying the request out again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StartRequest {
    /// Step to resume from.
    resume_step: Option<u64>,
    /// Parts that begin anew, sorted.
    reset: Vec<ResetPart>,
    /// Name that tells this request from an equal one.
    branch: Option<String>,
}

impl StartRequest {
    /// Reads the request of a configuration.
    pub(crate) fn of(config: &CheckpointConfig) -> Self {
        let mut reset = config.reset.clone();
        reset.sort_unstable();
        reset.dedup();
        Self { resume_step: config.resume_step, reset, branch: config.branch.clone() }
    }

    fn is_empty(&self) -> bool {
        self.resume_step.is_none() && self.reset.is_empty()
    }
}

/// How a run starts. All ranks hold the same.
pub(crate) struct Start {
    /// The checkpoint to continue from; none for a fresh run.
    pub(crate) checkpoint: Option<Arc<Checkpoint>>,
    /// The parts to begin anew; empty for a restart, which has that behind it.
    pub(crate) reset: Vec<ResetPart>,
}

impl Start {
    /// Finds the checkpoint to continue from: rank 0 looks, and the others open what it found,
    /// because file systems of several nodes may show them different folders. Nothing is changed on
    /// disk.
    pub(crate) fn find(
        config: &CheckpointConfig,
        store: &CheckpointStore,
        comm: &MeshComm,
    ) -> Result<Self, TrainError> {
        let request = StartRequest::of(config);
        if !config.enable {
            return Ok(Self { checkpoint: None, reset: request.reset });
        }
        let mut found = None;
        if comm.rank() == 0 {
            store.prepare()?;
            found = match config.resume_step {
                Some(step) => Some(store.open(step)?),
                None => newest(store)?,
            };
        }
        // One more than the step, and 0 for none.
        let mut next = [found.as_ref().map_or(0.0, |checkpoint| (checkpoint.step() + 1) as f64)];
        comm.group(AxisSet::WORLD).all_reduce_scalars(&mut next, ReduceOp::Max)?;
        if found.is_none() && next[0] > 0.0 {
            found = Some(store.open(next[0] as u64 - 1)?);
        }
        match (config.resume, &found) {
            (ResumeMode::Never, Some(checkpoint)) => {
                let (root, step) = (store.root().into(), checkpoint.step());
                return Err(TrainError::WouldOverwrite { root, step });
            }
            (ResumeMode::Must, None) => {
                return Err(TrainError::NothingToResume { root: store.root().into() });
            }
            _ => {}
        }
        let is_restart = match &found {
            Some(checkpoint) => save::saved_state(checkpoint)?.request == request,
            None => false,
        };
        let reset = if is_restart || request.is_empty() { Vec::new() } else { request.reset };
        Ok(Self { checkpoint: found.map(Arc::new), reset })
    }

    /// Does on disk what the start stands for, once nothing can refuse it any more.
    pub(crate) fn take_effect(
        &self,
        _store: &CheckpointStore,
        _comm: &MeshComm,
    ) -> Result<(), TrainError> {
        Ok(())
    }
}

/// Finds the newest checkpoint that can be used, and says which cannot.
fn newest(store: &CheckpointStore) -> Result<Option<Checkpoint>, TrainError> {
    let scan = store.scan(Check::Files)?;
    for skipped in &scan.skipped {
        let (path, reason) = (skipped.path.display(), &skipped.reason);
        tracing::warn!(%path, %reason, "passed over a checkpoint that cannot be used");
    }
    Ok(scan.newest)
}
