//! Reading the element types of a run off its tensors.

use std::collections::BTreeSet;

use super::TrainingStep;
use super::rank::Rank;
use crate::metrics::PrecisionReport;
use crate::nn;

/// Whether and what is known of the first update.
#[derive(Debug, Default)]
pub(crate) enum Precision {
    /// There was none yet.
    #[default]
    Unknown,
    /// Known, and not told yet.
    Known(PrecisionReport),
    /// Told to the callbacks.
    Told,
}

impl<S: TrainingStep> Rank<'_, S> {
    /// Completes what a step saw of its gradients by what the rank holds and its units gathered.
    pub(crate) fn precision_report(&self, seen: PrecisionReport) -> PrecisionReport {
        let mut report = PrecisionReport { step: self.progress.step, ..seen };
        let model = self.model.as_ref().expect("a step gives the model back");
        let fully_shard = self.fully_shard.as_ref();
        let in_units: BTreeSet<_> = nn::parameters(model)
            .into_iter()
            .filter(|entry| fully_shard.is_some_and(|fsdp| fsdp.shards(entry.id)))
            .map(|entry| entry.path)
            .collect();
        nn::for_each_value(model, |path, _, value| {
            let (dtype, elements) = (value.dtype(), value.dims()[0]);
            report.parameters.add(dtype, elements);
            if !in_units.contains(path) {
                report.computation.add(dtype, elements);
            }
        });
        if let Some(fsdp) = fully_shard {
            report.computation.extend(fsdp.gathered_elements());
            report.reduction.extend(fsdp.reduced_elements());
        }
        for owned in &self.optimizers {
            let state = owned.optimizer.state();
            report.optimizer_state.extend(state.map(|(_, _, slot)| (slot.dtype(), slot.dims()[0])));
        }
        report
    }
}
