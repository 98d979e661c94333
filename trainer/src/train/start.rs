//! Where a run starts: the checkpoint it continues from, and what of its request is still to be done.
//!
//! All ranks take the same decision. Rank 0 alone looks at the folder and chooses, because file
//! systems of several nodes may show them different folders; every rank opens what was chosen and
//! compares its share of the files with their checksums; if one finds damage, all go back to the
//! choice. Nothing changes on disk before everything that can refuse the start has passed.

use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use super::request::StartRequest;
use super::{TrainError, gather_text};
use crate::checkpoint::{
    Check, Checkpoint, CheckpointConfig, CheckpointError, CheckpointStore, ResetPart, ResumeMode,
};
use crate::comm::{MeshComm, ReduceOp};
use crate::mesh::AxisSet;
use crate::run_folder::in_full;

/// How a run starts. All ranks hold the same, but for the damage, which rank 0 keeps.
pub(crate) struct Start {
    /// The checkpoint to continue from; none for a fresh run.
    pub(crate) checkpoint: Option<Arc<Checkpoint>>,
    /// The parts to begin anew; empty for a restart, which has that behind it.
    pub(crate) reset: Vec<ResetPart>,
    request: StartRequest,
    is_restart: bool,
    damaged: Vec<Damaged>,
}

/// A checkpoint that cannot be used.
struct Damaged {
    step: u64,
    cause: String,
}

/// What rank 0 has chosen.
#[derive(Clone, Copy)]
struct Choice {
    step: Option<u64>,
    /// Whether the checkpoint was written under the request of this start.
    is_restart: bool,
}

impl Start {
    /// Finds the checkpoint to continue from. Nothing that a run has saved is changed.
    ///
    /// # Communication
    ///
    /// A few all-reduces of two numbers; a gather for each damaged checkpoint.
    ///
    /// # Errors
    ///
    /// The asked step is not there or damaged; `checkpoint.resume` refuses what is there; the folder
    /// cannot be read or written.
    pub(crate) fn find(
        config: &CheckpointConfig,
        store: &CheckpointStore,
        comm: &MeshComm,
    ) -> Result<Self, TrainError> {
        let request = StartRequest::of(config);
        let mut start = Self {
            checkpoint: None,
            reset: Vec::new(),
            request,
            is_restart: false,
            damaged: vec![],
        };
        if !config.enable {
            return Ok(start);
        }
        if comm.rank() == 0 {
            store.prepare()?;
        }
        loop {
            let choice = start.agree_on_choice(config, store, comm)?;
            let Some(step) = choice.step else { break };
            if let Some(checkpoint) = start.verify(store, step, choice, comm)? {
                start.checkpoint = Some(Arc::new(checkpoint));
                start.is_restart = choice.is_restart;
                break;
            }
        }
        if start.checkpoint.is_some() && !start.is_restart {
            start.reset.clone_from(&start.request.reset);
        }
        Ok(start)
    }

    /// Lets rank 0 choose, and tells the others.
    fn agree_on_choice(
        &mut self,
        config: &CheckpointConfig,
        store: &CheckpointStore,
        comm: &MeshComm,
    ) -> Result<Choice, TrainError> {
        // One more than the step, and 0 for none. The others have nothing to add.
        let mut codes = [0.0, 0.0];
        if comm.rank() == 0 {
            let choice = self.choose(store)?;
            match (config.resume, choice.step) {
                (ResumeMode::Never, Some(step)) => {
                    return Err(TrainError::WouldOverwrite { root: store.root().into(), step });
                }
                (ResumeMode::Must, None) => return Err(self.nothing_to_resume(store.root())),
                _ => {}
            }
            codes = [
                choice.step.map_or(0.0, |step| (step + 1) as f64),
                f64::from(u8::from(choice.is_restart)),
            ];
        }
        comm.group(AxisSet::WORLD).all_reduce_scalars(&mut codes, ReduceOp::Max)?;
        let [next, is_restart] = codes;
        let step = (next > 0.0).then(|| next as u64 - 1);
        Ok(Choice { step, is_restart: is_restart > 0.0 })
    }

    /// Chooses among what looks whole: the newest, or the asked step unless a start with the same
    /// request has saved since.
    fn choose(&mut self, store: &CheckpointStore) -> Result<Choice, TrainError> {
        let newest = self.newest(store)?;
        let done = newest.as_ref().filter(|newest| self.request.is_done_in(newest));
        let step = match self.request.resume_step {
            Some(asked) => match done.filter(|newest| newest.step() > asked) {
                Some(newest) => return Ok(Choice { step: Some(newest.step()), is_restart: true }),
                None => Some(store.open(asked)?.step()),
            },
            None => newest.as_ref().map(Checkpoint::step),
        };
        let is_restart = self.request.resume_step.is_none() && done.is_some();
        Ok(Choice { step, is_restart })
    }

    /// Returns the newest checkpoint that looks whole, and notes those that do not.
    fn newest(&mut self, store: &CheckpointStore) -> Result<Option<Checkpoint>, TrainError> {
        // All that is newer than a damaged one has been found damaged before.
        let end = self.damaged.last().map_or(Bound::Unbounded, |last| Bound::Excluded(last.step));
        let scan = store.scan_steps((Bound::Unbounded, end), Check::Files)?;
        let damaged = scan.skipped.iter();
        self.damaged.extend(
            damaged.map(|skipped| Damaged { step: skipped.step, cause: in_full(&skipped.reason) }),
        );
        Ok(scan.newest)
    }

    /// Opens the checkpoint of `step` on every rank and compares its files with their checksums, each
    /// by one rank. Returns nothing if a rank found it damaged: then another is to be chosen.
    fn verify(
        &mut self,
        store: &CheckpointStore,
        step: u64,
        choice: Choice,
        comm: &MeshComm,
    ) -> Result<Option<Checkpoint>, TrainError> {
        let group = comm.group(AxisSet::WORLD);
        let opened = store.open(step).and_then(|checkpoint| {
            checkpoint.verify_share(comm.rank(), group.size())?;
            Ok(checkpoint)
        });
        // A step that was asked for is used or refused.
        let may_fall_back = choice.is_restart || self.request.resume_step.is_none();
        let (checkpoint, cause) = match opened {
            Ok(checkpoint) => (Some(checkpoint), String::new()),
            Err(error) if error.is_damage() && may_fall_back => (None, in_full(&error)),
            Err(error) => return Err(error.into()),
        };
        let mut is_damaged = [f64::from(u8::from(checkpoint.is_none()))];
        group.all_reduce_scalars(&mut is_damaged, ReduceOp::Max)?;
        if is_damaged[0] == 0.0 {
            return Ok(checkpoint);
        }
        if let Some(causes) = gather_text(&group, &cause)? {
            let mut causes: Vec<&str> = causes.iter().map(|cause| cause.trim_end()).collect();
            causes.sort_unstable();
            causes.dedup();
            causes.retain(|cause| !cause.is_empty());
            self.damaged.push(Damaged { step, cause: causes.join("; ") });
        }
        Ok(None)
    }

    fn nothing_to_resume(&self, root: &Path) -> TrainError {
        let text = |damaged: &Damaged| format!("step {}: {}", damaged.step, damaged.cause);
        let damaged = self.damaged.iter().map(text).collect();
        TrainError::NothingToResume { root: root.into(), damaged }
    }

    /// Does on disk what the start stands for, once nothing can refuse it any more: what is damaged
    /// and what the run leaves behind is set aside, and its steps are saved anew.
    ///
    /// A process that dies before or within leaves a folder in which the same command finds the same
    /// start: a request counts as done by a checkpoint saved under it.
    pub(crate) fn take_effect(
        &self,
        store: &CheckpointStore,
        comm: &MeshComm,
    ) -> Result<(), TrainError> {
        if comm.rank() != 0 {
            return Ok(());
        }
        for Damaged { step, cause } in &self.damaged {
            let aside = store.set_aside_damaged(*step)?;
            tracing::warn!(
                "the checkpoint of step {step} is damaged and was set aside as {}: {cause}",
                aside.display()
            );
        }
        match &self.checkpoint {
            Some(checkpoint) => self.begin_or_go_on(store, checkpoint.step())?,
            None if !self.damaged.is_empty() => {
                tracing::warn!("no whole checkpoint is left: the run starts from step 0");
            }
            None => {}
        }
        Ok(())
    }

    fn begin_or_go_on(&self, store: &CheckpointStore, step: u64) -> Result<(), CheckpointError> {
        if !self.damaged.is_empty() {
            tracing::warn!("the run goes on from step {step}, its newest whole checkpoint");
        }
        if self.is_restart {
            if !self.request.is_empty() {
                let request = &self.request;
                tracing::info!(
                    "{request} in `[checkpoint]` was carried out before step {step} was saved, so the run goes on from there; another `checkpoint.branch` carries it out again"
                );
            }
            return Ok(());
        }
        if self.request.resume_step.is_none() {
            return Ok(());
        }
        let aside = store.set_aside_after(step)?;
        if !aside.is_empty() {
            let names = aside.iter().filter_map(|path| path.file_name());
            let names: Vec<_> = names.map(|name| name.to_string_lossy()).collect();
            tracing::warn!(
                "a branch begins at step {step}: {} newer checkpoints were set aside in {} as {}; they are never removed, delete them by hand when nobody needs them",
                aside.len(),
                store.root().display(),
                names.join(", ")
            );
        }
        Ok(())
    }
}
