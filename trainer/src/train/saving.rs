//! Checkpoints written while training goes on: at most one at a time, committed at a step on which
//! all ranks agree.

use burn::tensor::TensorData;
use serde_json::json;

use super::rank::{Rank, hook};
use super::request::StartRequest;
use super::{TrainError, TrainingStep, save};
use crate::checkpoint::{Background, RankFile, RunState, Save};
use crate::comm::{CommError, ProcessGroup, ReduceOp};
use crate::mesh::AxisSet;
use crate::optim::GradScaler;

/// A checkpoint that was begun and does not count yet.
#[derive(Debug)]
pub(crate) struct Saving {
    save: Save,
    state: RunState,
    writing: Background<RankFile>,
}

impl Saving {
    /// Tells whether this rank has written its part.
    pub(crate) fn is_written(&self) -> bool {
        self.writing.is_finished()
    }
}

impl<S: TrainingStep> Rank<'_, S> {
    /// Begins a checkpoint of this step: copies what this rank writes to host memory and leaves the
    /// writing to a thread. Replicated blocks are written once. One that was begun before is
    /// committed first.
    ///
    /// # Communication
    ///
    /// A barrier after the folder is made, and [`Self::commit`] of an earlier checkpoint.
    ///
    /// # Errors
    ///
    /// There is a checkpoint of this step: the start set aside what is newer than its own, so that
    /// somebody else writes here.
    pub(crate) fn save(&mut self) -> Result<(), TrainError> {
        let step = self.progress.step;
        self.commit()?;
        let _save = tracing::trace_span!("checkpoint").entered();
        let model = self.model.as_ref().expect("a step gives the model back");
        let shards = save::snapshot(model, &self.optimizers, &self.layouts, &self.comm);
        let state = self.run_state()?;
        let rank = self.comm.rank();
        let begun = if rank == 0 { Some(self.store.begin(step)?) } else { None };
        self.comm.group(AxisSet::WORLD).barrier()?;
        let save = begun.unwrap_or_else(|| self.store.join(step));
        let writer = save.clone();
        let writing = Background::spawn(move || writer.write_rank(rank, shards))?;
        self.saving = Some(Saving { save, state, writing });
        if self.plan.checkpoint.background { Ok(()) } else { self.commit() }
    }

    /// Returns what the manifest keeps besides tensors.
    fn run_state(&self) -> Result<RunState, TrainError> {
        let model = self.model.as_ref().expect("a step gives the model back");
        let saved = save::SavedState {
            progress: self.progress.clone(),
            data: hook("save data position", self.streams.train.state())?,
            optimizers: self
                .optimizers
                .iter()
                .map(|owned| (owned.optimizer.name().into(), owned.optimizer.num_updates()))
                .collect(),
            callbacks: self.callbacks.state(),
            grad_scaler: self.grad_scaler.as_ref().map(GradScaler::state),
            request: StartRequest::of(&self.plan.checkpoint),
            schedule_start: self.schedule_start,
            never_updated: save::never_updated(model, &self.optimizers),
            identity: self.identity.clone(),
        };
        let value =
            |error| TrainError::SavedState { path: self.store.root().into(), source: error };
        Ok(RunState {
            mesh: serde_json::to_value(self.plan.mesh).map_err(value)?,
            config: json!(self.plan.config_text),
            state: serde_json::to_value(saved).map_err(value)?,
        })
    }

    /// Waits for the checkpoint that was begun, if there is one, and makes it count.
    ///
    /// # Communication
    ///
    /// A gather of what each rank wrote.
    ///
    /// # Errors
    ///
    /// A rank could not write.
    pub(crate) fn commit(&mut self) -> Result<(), TrainError> {
        let Some(Saving { save, state, writing }) = self.saving.take() else { return Ok(()) };
        let _commit = tracing::trace_span!("commit_checkpoint").entered();
        let bad = |source| TrainError::SavedState { path: self.store.root().into(), source };
        let file = serde_json::to_string(&writing.wait()?).map_err(bad)?;
        let Some(texts) = gather_text(&self.comm.group(AxisSet::WORLD), &file)? else {
            return Ok(());
        };
        let files = texts.iter().map(|text| serde_json::from_str(text.trim_end()));
        let files = files.collect::<Result<Vec<_>, _>>().map_err(bad)?;
        let step = save.step();
        let checkpoint = save.commit(state, files)?;
        self.store.retain(self.plan.checkpoint.keep_latest, step)?;
        self.callbacks.post_checkpoint(&self.run, step, checkpoint.path())?;
        Ok(())
    }
}

/// Bytes of text in an element of a message.
const WORD: usize = size_of::<i32>();

/// Brings a text of each rank to rank 0, padded with spaces to one length on the way.
pub(crate) fn gather_text(
    group: &ProcessGroup,
    text: &str,
) -> Result<Option<Vec<String>>, CommError> {
    let mut longest = [text.len() as f64];
    group.all_reduce_scalars(&mut longest, ReduceOp::Max)?;
    let len = (longest[0] as usize).next_multiple_of(WORD);
    let padded: Vec<u8> = text.bytes().chain(std::iter::repeat(b' ')).take(len).collect();
    let words = padded.as_chunks::<WORD>().0.iter().map(|word| i32::from_le_bytes(*word));
    let message = TensorData::new(words.collect::<Vec<_>>(), [1, len / WORD]);
    let Some(all) = group.gather(message, 0)? else { return Ok(None) };
    let bytes: Vec<u8> = all.iter::<i32>().flat_map(i32::to_le_bytes).collect();
    Ok(Some(
        bytes.chunks(len.max(1)).map(|text| String::from_utf8_lossy(text).into_owned()).collect(),
    ))
}
