//! The learning rates of several optimizers.

use std::collections::BTreeMap;

use super::{Callback, CallbackResult, Requests, RunView};
use crate::metrics::{SharedSink, StepInfo};

/// Adds `lr/<optimizer>` to the metrics of each step that used more than one optimizer.
///
/// With a single optimizer the `lr` of [`StepInfo`] says it all. It stands before the loggers in a
/// [`super::CallbackSet`], because they write the row.
pub struct LearningRateLogger {
    sinks: Vec<SharedSink>,
    rates: BTreeMap<String, f64>,
}

impl LearningRateLogger {
    /// Returns a logger into the given sinks.
    pub fn new(sinks: Vec<SharedSink>) -> Self {
        Self { sinks, rates: BTreeMap::new() }
    }
}

impl Callback for LearningRateLogger {
    fn name(&self) -> &'static str {
        "learning_rate"
    }

    fn post_optimizer_step(&mut self, _: &RunView, optimizer: &str, lr: f64) -> CallbackResult {
        self.rates.insert(optimizer.to_owned(), lr);
        Ok(())
    }

    fn post_train_step(&mut self, _: &RunView, _: &StepInfo, _: &mut Requests) -> CallbackResult {
        let rates = std::mem::take(&mut self.rates);
        if rates.len() > 1 {
            for (optimizer, lr) in rates {
                self.sinks.iter().for_each(|sink| sink.annotate(&format!("lr/{optimizer}"), lr));
            }
        }
        Ok(())
    }
}
