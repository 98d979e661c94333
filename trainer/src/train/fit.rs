//! The loop: steps, validations, checkpoints, and every way a run ends.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Instant;

use burn::module::Module;

use super::device::reserved_bytes;
use super::precision::Precision;
use super::rank::{Rank, hook};
use super::save::Progress;
use super::step::{Outcome, nonfinite, scalar};
use super::{Interrupt, NonFinitePolicy, RunOutcome, StepContext, TrainError, TrainingStep};
use crate::callbacks::{Interruption, MemoryUse, MergedRequests};
use crate::comm::{CommError, ReduceOp};
use crate::config::DeviceKind;
use crate::kernels;
use crate::mesh::AxisSet;
use crate::metrics::{StepInfo, ValidationInfo};
use crate::optim::GradScaler;
use crate::train::Batch;
use crate::world::Panic;

/// Why the loop was left before its last step.
type Early = Option<Interruption>;

impl<S: TrainingStep> Rank<'_, S> {
    /// Trains to the last step, or until the run is asked to end.
    pub(crate) fn fit(mut self, interrupt: &Interrupt) -> Result<RunOutcome, TrainError> {
        if self.progress.step >= self.run.num_steps {
            return Ok(self.already_complete());
        }
        let mut last = None;
        let ended = self.run_steps(interrupt, &mut last);
        let ended = self.end_saving(ended);
        let ended = self.in_its_folder(ended);
        match &ended {
            Ok(None) => self.callbacks.post_fit(&self.run)?,
            Ok(Some(why)) => self.callbacks.on_interrupt(&self.run, why)?,
            Err(error) => {
                let why = Interruption::Failed(error.to_string());
                if let Err(second) = self.callbacks.on_interrupt(&self.run, &why) {
                    tracing::warn!(error = %second, "a callback failed while the run was ending");
                }
            }
        }
        Ok(RunOutcome {
            interrupted: ended?.is_some(),
            step: self.progress.step,
            loss: last,
            skipped_steps: self.progress.skipped_steps,
            directory: self.run.directory,
        })
    }

    /// Says that there is nothing to do and leaves the run's folder as it is.
    fn already_complete(self) -> RunOutcome {
        let (step, asked_for) = (self.progress.step, self.run.num_steps);
        tracing::info!(
            step,
            asked_for,
            folder = %self.run.directory.display(),
            "this run is complete: nothing is done; more steps or epochs continue it"
        );
        RunOutcome {
            interrupted: false,
            step,
            loss: None,
            skipped_steps: self.progress.skipped_steps,
            directory: self.run.directory,
        }
    }

    /// Lets the last checkpoint that was begun count. After an error it can only if every rank has
    /// met the same one.
    fn end_saving(&mut self, ended: Result<Early, TrainError>) -> Result<Early, TrainError> {
        match ended {
            Ok(early) => self.commit().map(|()| early),
            Err(error) => {
                if let TrainError::NonFinite { .. } | TrainError::TooManySkips { .. } = error.root()
                    && let Err(second) = self.commit()
                {
                    tracing::warn!(error = %second, "the last checkpoint could not be written");
                }
                Err(error)
            }
        }
    }

    /// Names a folder that was removed as the cause of whatever failed with it; what succeeded has
    /// left nothing there either.
    fn in_its_folder(&self, ended: Result<Early, TrainError>) -> Result<Early, TrainError> {
        let Err(gone) = self.folder.check() else { return ended };
        if let Err(error) = &ended
            && !matches!(error.root(), TrainError::Folder(_))
        {
            tracing::warn!(%error, "the run had failed in its folder");
        }
        Err(gone.into())
    }

    fn run_steps(
        &mut self,
        interrupt: &Interrupt,
        last: &mut Option<f64>,
    ) -> Result<Early, TrainError> {
        let training = &self.plan.training;
        if self.comm.rank() == 0 {
            self.folder.record_config(&self.run.config)?;
        }
        self.callbacks.pre_fit(&self.run)?;
        if training.num_sanity_val_steps > 0 {
            self.validate(true, training.num_sanity_val_steps)?;
        }
        while self.progress.step < self.run.num_steps {
            let data = &self.streams.train;
            let epoch = data.epoch();
            if data.begins_epoch() {
                self.callbacks.pre_epoch(&self.run, epoch)?;
            }
            let step = self.progress.step + 1;
            let info = part_of(step, "training", || self.train_step(epoch))?;
            *last = Some(info.loss);
            let mut requests = self.callbacks.post_train_step(&self.run, &info)?;
            requests.save |= interrupt.take_save();
            if step == self.run.start_step + 1 {
                let memory = self.memory_use()?;
                self.callbacks.post_first_step(&self.run, &memory)?;
            }
            self.tell_precision()?;
            let is_asked_to_end = interrupt.is_requested();
            let agree = || self.agree(requests, is_asked_to_end);
            let (requests, interrupted) = part_of(step, "agreeing on what comes next", agree)?;
            let why = if interrupted {
                Some(Interruption::Signal)
            } else {
                self.callbacks.interruption(&requests)
            };
            part_of(step, "after the update", || self.after_step(requests, why.is_some()))?;
            if self.streams.train.epoch() != epoch {
                self.callbacks.post_epoch(&self.run, epoch)?;
            }
            if why.is_some() && step < self.run.num_steps {
                return Ok(why);
            }
        }
        Ok(None)
    }

    /// Takes the maximum over ranks of what each holds.
    fn memory_use(&self) -> Result<MemoryUse, TrainError> {
        let model = self.model.as_ref().expect("a step gives the model back");
        let mut held = [model.num_params() as f64, self.activation_bytes.unwrap_or(0) as f64];
        self.comm.group(AxisSet::WORLD).all_reduce_scalars(&mut held, ReduceOp::Max)?;
        let [rank_parameters, activation_bytes] = held.map(|number| number as u64);
        let activation_bytes = self.activation_bytes.map(|_| activation_bytes);
        let activation_estimate = self.activation_estimate;
        Ok(MemoryUse { rank_parameters, activation_bytes, activation_estimate })
    }

    /// Tells the element types of the first update, once.
    fn tell_precision(&mut self) -> Result<(), TrainError> {
        if let Precision::Known(report) = &self.precision {
            self.callbacks.post_first_update(&self.run, report)?;
            self.precision = Precision::Told;
        }
        Ok(())
    }

    /// Takes the maximum over ranks of what each wants, so that all do the same. A checkpoint that
    /// every rank has written is committed.
    fn agree(
        &mut self,
        requests: MergedRequests,
        interrupted: bool,
    ) -> Result<(MergedRequests, bool), TrainError> {
        let [save, validate, stop] = requests.to_codes();
        let flag = |is_set: bool| f64::from(u8::from(is_set));
        let is_writing = self.saving.as_ref().is_some_and(|saving| !saving.is_written());
        let mut codes =
            [save as f64, validate as f64, stop as f64, flag(interrupted), flag(is_writing)];
        self.comm.group(AxisSet::WORLD).all_reduce_scalars(&mut codes, ReduceOp::Max)?;
        let [save, validate, stop, interrupted, is_writing] = codes;
        if is_writing == 0.0 {
            self.commit()?;
        }
        Ok((
            MergedRequests::from_codes([save as i64, validate as i64, stop as i64]),
            interrupted > 0.0,
        ))
    }

    fn after_step(&mut self, requests: MergedRequests, ending: bool) -> Result<(), TrainError> {
        let (training, checkpoint) = (&self.plan.training, &self.plan.checkpoint);
        if self.comm.rank() == 0 {
            self.folder.check()?;
        }
        let step = self.progress.step;
        let is_last = step == self.run.num_steps;
        let every = |n: u64| n > 0 && step.is_multiple_of(n);
        if every(training.val_every_n_steps) || requests.validate {
            self.validate(false, training.val_steps)?;
        }
        let due = every(checkpoint.every_n_steps)
            || requests.save
            || (is_last && checkpoint.save_last)
            || (ending && !is_last && checkpoint.save_on_interrupt);
        if requests.save && !checkpoint.enable && self.comm.rank() == 0 {
            tracing::warn!(
                "SIGUSR1 or a callback asks for a checkpoint, but `checkpoint.enable` is false: none is saved"
            );
        }
        if checkpoint.enable && due { self.save() } else { Ok(()) }
    }

    fn train_step(&mut self, epoch: u64) -> Result<StepInfo, TrainError> {
        let (begin, waited) = (Instant::now(), self.comm.waited());
        let step = self.progress.step + 1;
        let _step = tracing::trace_span!("step", step).entered();
        self.callbacks.pre_train_step(&self.run, step)?;
        let read = tracing::trace_span!("data");
        let batches = hook("read data", read.in_scope(|| self.streams.train.next_step()))?;
        let data_seconds = begin.elapsed().as_secs_f64();

        let group = self.comm.group(AxisSet::LOSS);
        let mut targets = [batches.iter().map(Batch::num_targets).sum::<usize>() as f64];
        group.all_reduce_scalars(&mut targets, ReduceOp::Sum)?;
        let num_targets = targets[0] as u64;
        if num_targets == 0 {
            return Err(TrainError::NoTargets { step });
        }
        let lr_factor = self.schedule.factor(self.progress.step);
        let mut ctx = StepContext {
            step,
            lr_factor,
            num_targets,
            max_grad_norm: self.plan.training.max_grad_norm,
            on_nonfinite: self.plan.training.on_nonfinite,
            comm: &self.comm,
            replicate: &self.replicate,
            layouts: &self.layouts,
            fully_shard: self.fully_shard.as_ref(),
            grad_scaler: self.grad_scaler.as_ref(),
            optimizers: &mut self.optimizers,
            callbacks: &mut self.callbacks,
            run: &self.run,
            gradients: std::collections::BTreeMap::new(),
            loss: None,
            outcome: Outcome::default(),
        };
        let model = self.model.take().expect("a step gives the model back");
        let setup = &self.trainer.setup;
        let train = || hook("training_step", setup.training_step(model, batches, &mut ctx));
        if self.progress.step == self.run.start_step {
            let (model, bytes) = kernels::measure_saved_bytes(train);
            self.model = Some(model?);
            // Only the processor's operations tell what they keep.
            self.activation_bytes = (self.plan.device == DeviceKind::Cpu).then_some(bytes as u64);
        } else {
            self.model = Some(train()?);
        }
        let (local, outcome) = (ctx.loss.as_ref().map_or(0.0, scalar), ctx.outcome);

        let mut sum = [local];
        group.all_reduce_scalars(&mut sum, ReduceOp::Sum)?;
        let loss = sum[0] / num_targets as f64;
        if !loss.is_finite() && self.plan.training.on_nonfinite == NonFinitePolicy::Stop {
            return Err(nonfinite(&self.comm, step, "the loss", loss, !local.is_finite())?);
        }
        self.progress.step = step;
        self.progress.total_tokens += num_targets;
        self.progress.skipped_steps += u64::from(outcome.skipped);
        self.count_skips_in_a_row(&outcome)?;
        let loss_scale = self.grad_scaler.as_ref().map(GradScaler::scale);
        if let Some(scaler) = &mut self.grad_scaler {
            scaler.update(outcome.overflowed);
        }
        if !outcome.skipped && matches!(self.precision, Precision::Unknown) {
            self.precision = Precision::Known(self.precision_report(outcome.precision));
        }
        let step_seconds = begin.elapsed().as_secs_f64();
        Ok(StepInfo {
            step,
            epoch,
            loss,
            grad_norm: outcome.squared_norm.sqrt(),
            lr: self.plan.optimizer.lr * lr_factor,
            tokens: num_targets,
            total_tokens: self.progress.total_tokens,
            step_seconds,
            data_seconds,
            communication_seconds: self.comm.waited().saturating_sub(waited).as_secs_f64(),
            tokens_per_second: num_targets as f64 / step_seconds,
            gpu_bytes: reserved_bytes(&self.device),
            skipped: outcome.skipped,
            loss_scale,
            extra: outcome.extra,
        })
    }

    /// Ends a run that drops one update after the other. An overflow that a lower loss scale may
    /// help against is normal and does not count.
    fn count_skips_in_a_row(&mut self, outcome: &Outcome) -> Result<(), TrainError> {
        let Progress { step, skips_in_a_row, .. } = &mut self.progress;
        match (outcome.skipped, outcome.overflowed) {
            (true, true) => {}
            (true, false) => *skips_in_a_row += 1,
            (false, _) => *skips_in_a_row = 0,
        }
        let limit = self.plan.training.max_consecutive_skips;
        if limit > 0 && *skips_in_a_row > limit {
            return Err(TrainError::TooManySkips { step: *step, limit });
        }
        Ok(())
    }

    /// Runs up to `max_steps` global validation batches, 0 for all, and tells the callbacks the
    /// mean over all their targets.
    fn validate(&mut self, sanity: bool, max_steps: u64) -> Result<(), TrainError> {
        let Some(stream) = &mut self.streams.validation else { return Ok(()) };
        let _validation = tracing::trace_span!("validation").entered();
        let begin = Instant::now();
        self.callbacks.pre_validation(&self.run, sanity)?;
        let model = self.model.as_ref().expect("a step gives the model back").valid();
        hook("rewind validation data", stream.rewind())?;
        let total = if max_steps == 0 {
            stream.steps_per_epoch()
        } else {
            max_steps.min(stream.steps_per_epoch())
        };
        let mut sums = [0.0, 0.0];
        for index in 0..total {
            for batch in hook("read validation data", stream.next_step())? {
                let loss =
                    hook("validation_step", self.trainer.setup.validation_step(&model, &batch))?;
                sums[0] += scalar(&loss.into_sum());
                sums[1] += batch.num_targets() as f64;
            }
            self.callbacks.post_validation_step(&self.run, index, total)?;
        }
        self.comm.group(AxisSet::LOSS).all_reduce_scalars(&mut sums, ReduceOp::Sum)?;
        let info = ValidationInfo {
            step: self.progress.step,
            sanity,
            loss: sums[0] / sums[1],
            tokens: sums[1] as u64,
            seconds: begin.elapsed().as_secs_f64(),
        };
        self.callbacks.post_validation(&self.run, &info)?;
        Ok(())
    }
}

/// Runs a part of a step, and names both where it fails.
///
/// A model's passes return no errors, so communication that fails inside them panics with its error,
/// which counts as one that was returned. Other panics go on.
fn part_of<T>(
    step: u64,
    phase: &'static str,
    run: impl FnOnce() -> Result<T, TrainError>,
) -> Result<T, TrainError> {
    let ran = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|payload| {
        match payload.downcast::<CommError>() {
            Ok(error) => Err((*error).into()),
            Err(payload) => {
                let text = Panic { payload, location: None }.message();
                resume_unwind(Box::new(format!("step {step}, {phase}: {text}")))
            }
        }
    });
    ran.map_err(|source| TrainError::Step { step, phase, source: Box::new(source) })
}
