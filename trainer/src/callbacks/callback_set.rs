//! The ordered set of callbacks of a run.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::{
    Callback, CallbackError, CallbackResult, Interruption, MemoryUse, MergedRequests, Requests,
    RunView, SetupReport,
};
use crate::metrics::{PrecisionReport, StepInfo, ValidationInfo};

/// Two callbacks with one name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "two callbacks are named `{name}`, but errors and saved state tell callbacks apart by name"
)]
pub struct DuplicateCallback {
    /// The name both have.
    pub name: String,
}

/// Tells every event to every callback, in the order they were added.
///
/// All ranks hold the same callbacks in the same order; those for rank zero alone hear nothing
/// elsewhere. The first error ends an event, except for `post_fit` and `on_interrupt`: the end of a
/// run reaches every callback, so that each can close its files.
pub struct CallbackSet {
    rank: usize,
    callbacks: Vec<Box<dyn Callback>>,
}

impl CallbackSet {
    /// Returns an empty set for one rank.
    pub fn new(rank: usize) -> Self {
        Self { rank, callbacks: Vec::new() }
    }

    /// Adds a callback behind the others.
    pub fn push(&mut self, callback: Box<dyn Callback>) -> Result<(), DuplicateCallback> {
        if self.names().any(|name| name == callback.name()) {
            return Err(DuplicateCallback { name: callback.name().to_owned() });
        }
        self.callbacks.push(callback);
        Ok(())
    }

    /// Iterates over the names in order, those for rank zero alone included.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.callbacks.iter().map(|callback| callback.name())
    }

    /// Returns why a run ends after these requests, if one of them is to stop.
    pub fn interruption(&self, requests: &MergedRequests) -> Option<Interruption> {
        let callback = self.callbacks.get(requests.stop?)?.name().to_owned();
        Some(Interruption::Requested { callback })
    }

    /// Tells [`Callback::pre_launch`].
    pub fn pre_launch(&mut self, run: &RunView) -> Result<(), CallbackError> {
        self.tell("pre_launch", |callback| callback.pre_launch(run))
    }

    /// Tells [`Callback::pre_configure`].
    pub fn pre_configure(&mut self, run: &RunView) -> Result<(), CallbackError> {
        self.tell("pre_configure", |callback| callback.pre_configure(run))
    }

    /// Tells [`Callback::post_configure`].
    pub fn post_configure(&mut self, run: &RunView) -> Result<(), CallbackError> {
        self.tell("post_configure", |callback| callback.post_configure(run))
    }

    /// Tells [`Callback::pre_setup`].
    pub fn pre_setup(&mut self, run: &RunView) -> Result<(), CallbackError> {
        self.tell("pre_setup", |callback| callback.pre_setup(run))
    }

    /// Tells [`Callback::post_setup`].
    pub fn post_setup(&mut self, run: &RunView, report: &SetupReport) -> Result<(), CallbackError> {
        self.tell("post_setup", |callback| callback.post_setup(run, report))
    }

    /// Tells [`Callback::pre_fit`].
    pub fn pre_fit(&mut self, run: &RunView) -> Result<(), CallbackError> {
        self.tell("pre_fit", |callback| callback.pre_fit(run))
    }

    /// Tells [`Callback::pre_epoch`].
    pub fn pre_epoch(&mut self, run: &RunView, epoch: u64) -> Result<(), CallbackError> {
        self.tell("pre_epoch", |callback| callback.pre_epoch(run, epoch))
    }

    /// Tells [`Callback::post_epoch`].
    pub fn post_epoch(&mut self, run: &RunView, epoch: u64) -> Result<(), CallbackError> {
        self.tell("post_epoch", |callback| callback.post_epoch(run, epoch))
    }

    /// Tells [`Callback::pre_train_step`].
    pub fn pre_train_step(&mut self, run: &RunView, step: u64) -> Result<(), CallbackError> {
        self.tell("pre_train_step", |callback| callback.pre_train_step(run, step))
    }

    /// Tells [`Callback::pre_optimizer_step`].
    pub fn pre_optimizer_step(
        &mut self,
        run: &RunView,
        optimizer: &str,
    ) -> Result<(), CallbackError> {
        self.tell("pre_optimizer_step", |callback| callback.pre_optimizer_step(run, optimizer))
    }

    /// Tells [`Callback::post_optimizer_step`].
    pub fn post_optimizer_step(
        &mut self,
        run: &RunView,
        optimizer: &str,
        lr: f64,
    ) -> Result<(), CallbackError> {
        self.tell("post_optimizer_step", |callback| {
            callback.post_optimizer_step(run, optimizer, lr)
        })
    }

    /// Tells [`Callback::post_train_step`] and returns what the callbacks of this rank ask for.
    pub fn post_train_step(
        &mut self,
        run: &RunView,
        info: &StepInfo,
    ) -> Result<MergedRequests, CallbackError> {
        let mut merged = MergedRequests::default();
        for (position, callback) in self.listeners() {
            let mut requests = Requests::default();
            let result = callback.post_train_step(run, info, &mut requests);
            named(result, callback.name(), "post_train_step")?;
            merged.add(position, &requests);
        }
        Ok(merged)
    }

    /// Tells [`Callback::post_first_step`].
    pub fn post_first_step(
        &mut self,
        run: &RunView,
        memory: &MemoryUse,
    ) -> Result<(), CallbackError> {
        self.tell("post_first_step", |callback| callback.post_first_step(run, memory))
    }

    /// Tells [`Callback::post_first_update`].
    pub fn post_first_update(
        &mut self,
        run: &RunView,
        report: &PrecisionReport,
    ) -> Result<(), CallbackError> {
        self.tell("post_first_update", |callback| callback.post_first_update(run, report))
    }

    /// Tells [`Callback::pre_validation`].
    pub fn pre_validation(&mut self, run: &RunView, sanity: bool) -> Result<(), CallbackError> {
        self.tell("pre_validation", |callback| callback.pre_validation(run, sanity))
    }

    /// Tells [`Callback::post_validation_step`].
    pub fn post_validation_step(
        &mut self,
        run: &RunView,
        index: u64,
        total: u64,
    ) -> Result<(), CallbackError> {
        self.tell("post_validation_step", |callback| {
            callback.post_validation_step(run, index, total)
        })
    }

    /// Tells [`Callback::post_validation`].
    pub fn post_validation(
        &mut self,
        run: &RunView,
        info: &ValidationInfo,
    ) -> Result<(), CallbackError> {
        self.tell("post_validation", |callback| callback.post_validation(run, info))
    }

    /// Tells [`Callback::post_checkpoint`].
    pub fn post_checkpoint(
        &mut self,
        run: &RunView,
        step: u64,
        path: &Path,
    ) -> Result<(), CallbackError> {
        self.tell("post_checkpoint", |callback| callback.post_checkpoint(run, step, path))
    }

    /// Tells [`Callback::post_fit`] to every callback and returns the first error.
    pub fn post_fit(&mut self, run: &RunView) -> Result<(), CallbackError> {
        self.tell_all("post_fit", |callback| callback.post_fit(run))
    }

    /// Tells [`Callback::on_interrupt`] to every callback and returns the first error.
    pub fn on_interrupt(&mut self, run: &RunView, why: &Interruption) -> Result<(), CallbackError> {
        self.tell_all("on_interrupt", |callback| callback.on_interrupt(run, why))
    }

    /// Returns what a checkpoint keeps, by name of the callback.
    pub fn state(&self) -> BTreeMap<String, Value> {
        let heard = self.callbacks.iter().filter(|callback| hears(callback.as_ref(), self.rank));
        heard.filter_map(|callback| Some((callback.name().to_owned(), callback.state()?))).collect()
    }

    /// Gives saved states back; one whose callback this run lacks is left out with a warning.
    pub fn load_state(&mut self, mut states: BTreeMap<String, Value>) -> Result<(), CallbackError> {
        for (_, callback) in self.listeners() {
            if let Some(state) = states.remove(callback.name()) {
                let result = callback.load_state(state);
                named(result, callback.name(), "load_state")?;
            }
        }
        for name in states.into_keys().filter(|name| !self.names().any(|known| known == name)) {
            tracing::warn!(
                callback = name,
                "the checkpoint has a state for a callback that this run lacks"
            );
        }
        Ok(())
    }

    /// Iterates over the callbacks that run on this rank, with their positions.
    fn listeners(&mut self) -> impl Iterator<Item = (usize, &mut dyn Callback)> {
        let rank = self.rank;
        let boxed = self.callbacks.iter_mut().enumerate();
        boxed.filter_map(move |(position, callback)| {
            hears(callback.as_ref(), rank).then_some((position, callback.as_mut() as _))
        })
    }

    fn tell(
        &mut self,
        event: &'static str,
        mut handle: impl FnMut(&mut dyn Callback) -> CallbackResult,
    ) -> Result<(), CallbackError> {
        for (_, callback) in self.listeners() {
            named(handle(callback), callback.name(), event)?;
        }
        Ok(())
    }

    fn tell_all(
        &mut self,
        event: &'static str,
        mut handle: impl FnMut(&mut dyn Callback) -> CallbackResult,
    ) -> Result<(), CallbackError> {
        let mut outcome = Ok(());
        for (_, callback) in self.listeners() {
            outcome = outcome.and(named(handle(callback), callback.name(), event));
        }
        outcome
    }
}

fn hears(callback: &dyn Callback, rank: usize) -> bool {
    rank == 0 || !callback.rank_zero_only()
}

fn named(result: CallbackResult, callback: &str, event: &'static str) -> Result<(), CallbackError> {
    result.map_err(|source| CallbackError { callback: callback.to_owned(), event, source })
}
