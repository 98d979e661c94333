//! What another value of each configuration key means for a run that continues from a checkpoint.
//!
//! Every key of the schema is in one of the lists, which a test checks; a key in none is refused.

use std::collections::BTreeSet;

use serde_json::Value;

use super::compare::{Difference, Differences, compare, leaves, under};
use super::identity::Recorded;
use crate::checkpoint::ResetPart;

/// What another value of a key means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Another model; no part of a checkpoint would be right.
    Model,
    /// Another optimizer: its state and its number of updates mean something else.
    Optimizer,
    /// Other data or another order of them: the position means something else.
    Data,
    /// Where data come from. It does not matter where their content is known to be the same.
    Content,
    /// The same run, continued in another way: it is told.
    Told,
    /// How this start is made and where the run lies; no checkpoint belongs to it.
    Start,
}

const OPTIMIZER: [&str; 2] = ["optimizer.name", "optimizer.param_groups.pattern"];

const DATA: [&str; 4] = [
    "run.seed",
    "training_parameters.sequence_length",
    "data.mask_document_boundaries",
    "data.shuffle",
];

const CONTENT: [&str; 11] = [
    "data.source",
    "data.files",
    "data.field",
    "data.token_width",
    "data.tokenizer",
    "data.add_bos",
    "data.parse_special_tokens",
    "data.eos_id",
    "data.validation_fraction",
    "data.vocab_size",
    "data.num_sequences",
];

const START: [&str; 11] = [
    "run.project",
    "run.group",
    "run.experiment",
    "run.output_dir",
    "checkpoint.resume",
    "checkpoint.resume_step",
    "checkpoint.reset",
    "checkpoint.branch",
    "checkpoint.init_from",
    "checkpoint.init_include",
    "checkpoint.init_exclude",
];

const TOLD: [&str; 71] = [
    "device_parameters.preset",
    "device_parameters.device",
    "device_parameters.world_size",
    "device_parameters.ranks",
    "device_parameters.dp_replicate",
    "device_parameters.dp_shard",
    "device_parameters.reshard",
    "device_parameters.accumulate_whole_gradients",
    "device_parameters.context_parallel",
    "device_parameters.tensor_parallel",
    "device_parameters.pipeline_parallel",
    "device_parameters.mesh_order",
    "device_parameters.param_dtype",
    "device_parameters.reduce_dtype",
    "device_parameters.grad_scaler.init_scale",
    "device_parameters.grad_scaler.growth_factor",
    "device_parameters.grad_scaler.backoff_factor",
    "device_parameters.grad_scaler.growth_interval",
    "device_parameters.loss_parallel",
    "device_parameters.sequence_parallel",
    "device_parameters.async_tensor_parallel",
    "device_parameters.activation_checkpointing",
    "device_parameters.checkpoint_every_nth_block",
    "device_parameters.cpu_offload",
    "device_parameters.compile",
    "device_parameters.comm.init_timeout_secs",
    "device_parameters.comm.timeout_secs",
    "device_parameters.comm.reduction",
    "device_parameters.pipeline.schedule",
    "device_parameters.pipeline.num_microbatches",
    "device_parameters.context.method",
    "device_parameters.context.load_balance",
    "training_parameters.steps",
    "training_parameters.epochs",
    "training_parameters.global_batch_size",
    "training_parameters.micro_batch_size",
    "training_parameters.gradient_accumulation_steps",
    "training_parameters.max_grad_norm",
    "training_parameters.val_every_n_steps",
    "training_parameters.val_steps",
    "training_parameters.num_sanity_val_steps",
    "training_parameters.on_nonfinite",
    "training_parameters.max_consecutive_skips",
    "optimizer.lr",
    "optimizer.betas",
    "optimizer.eps",
    "optimizer.weight_decay",
    "optimizer.momentum",
    "optimizer.nesterov",
    "optimizer.newton_schulz_steps",
    "optimizer.adamw_lr",
    "optimizer.param_groups.lr_scale",
    "optimizer.param_groups.weight_decay",
    "lr_scheduler.name",
    "lr_scheduler.warmup_steps",
    "lr_scheduler.total_steps",
    "lr_scheduler.decay_ratio",
    "lr_scheduler.decay_shape",
    "lr_scheduler.min_lr_factor",
    "data.validation_files",
    "data.cache_dir",
    "checkpoint.enable",
    "checkpoint.every_n_steps",
    "checkpoint.keep_latest",
    "checkpoint.background",
    "checkpoint.save_last",
    "checkpoint.save_on_interrupt",
    "metrics.console_every_n_steps",
    "metrics.jsonl",
    "metrics.tensorboard",
    "metrics.peak_flops",
];

const TOLD_OF_CALLBACKS: [&str; 4] = [
    "callbacks.progress_bar",
    "callbacks.summary",
    "callbacks.benchmark.enable",
    "callbacks.benchmark.warmup_steps",
];

/// Returns what another value of a key means, if the key is in a list.
fn listed(key: &str) -> Option<Effect> {
    let key = without_numbers(key);
    let lists: [(&[&str], Effect); 6] = [
        (&OPTIMIZER, Effect::Optimizer),
        (&DATA, Effect::Data),
        (&CONTENT, Effect::Content),
        (&START, Effect::Start),
        (&TOLD, Effect::Told),
        (&TOLD_OF_CALLBACKS, Effect::Told),
    ];
    lists.into_iter().find(|(keys, _)| keys.contains(&key.as_str())).map(|(_, effect)| effect)
}

/// Takes the numbers of list items out of a key.
fn without_numbers(key: &str) -> String {
    let mut depth = 0;
    let kept = key.chars().filter(|&sign| {
        depth += i32::from(sign == '[');
        let is_kept = depth == 0;
        depth -= i32::from(sign == ']');
        is_kept
    });
    kept.collect()
}

/// What a comparison comes to.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// What makes it another run.
    pub(crate) refused: Differences,
    /// What may change, or is to begin anew.
    pub(crate) told: Differences,
    /// Parts that `checkpoint.reset` could begin anew so that nothing is refused; empty if no reset
    /// helps.
    pub(crate) resettable: Vec<ResetPart>,
}

/// Compares what a checkpoint was written under with the run.
pub(crate) fn judge(saved: &Recorded, now: &Recorded, reset: &[ResetPart]) -> Verdict {
    let (mut verdict, mut parts) = (Verdict::default(), Vec::new());
    for (difference, effect) in differences(saved, now) {
        let part = match effect {
            Effect::Optimizer => Some(ResetPart::Optimizer),
            Effect::Data | Effect::Content => Some(ResetPart::Data),
            _ => None,
        };
        match effect {
            Effect::Start => {}
            Effect::Told => verdict.told.0.push(difference),
            _ if part.is_some_and(|part| reset.contains(&part)) => verdict.told.0.push(difference),
            _ => {
                parts.push(part);
                verdict.refused.0.push(difference);
            }
        }
    }
    // One difference that no reset allows makes every reset useless.
    let parts: Option<BTreeSet<ResetPart>> = parts.into_iter().collect();
    verdict.resettable = parts.unwrap_or_default().into_iter().collect();
    verdict
}

fn differences(saved: &Recorded, now: &Recorded) -> Vec<(Difference, Effect)> {
    let mut found = models(saved, now);
    let same_content = saved.content().is_some() && saved.content() == now.content();
    let settings = compare(&saved.settings_without_model(), &now.settings_without_model());
    found.extend(settings.into_iter().map(|difference| {
        let effect = match listed(&difference.key) {
            Some(Effect::Content) if same_content => Effect::Told,
            Some(effect) => effect,
            // Nobody has said that it is harmless.
            None => Effect::Model,
        };
        (difference, effect)
    }));
    if let (Some(a), Some(b)) = (&saved.identity, &now.identity) {
        let optimizers = compare(&a.optimizer_table(), &b.optimizer_table());
        found.extend(optimizers.into_iter().map(|difference| (difference, Effect::Optimizer)));
        let data = compare(&under("data", &a.data), &under("data", &b.data));
        found.extend(data.into_iter().map(|difference| (difference, Effect::Data)));
    }
    found
}

/// Compares what the models compute. Keys of `[model]` beside that are told: a flavor that gives the
/// same sizes is the same model.
fn models(saved: &Recorded, now: &Recorded) -> Vec<(Difference, Effect)> {
    let written = compare(&saved.model_settings(), &now.model_settings()).into_iter();
    let (Some(a), Some(b)) = (&saved.identity, &now.identity) else {
        return written.map(|difference| (difference, Effect::Model)).collect();
    };
    let (a, b) = (under("model", &a.architecture), under("model", &b.architecture));
    let known: Vec<_> = [leaves(&a), leaves(&b)].concat();
    let beside = written.filter(|difference| !known.iter().any(|(key, _)| *key == difference.key));
    let computed = compare(&a, &b).into_iter().map(|difference| (difference, Effect::Model));
    computed.chain(beside.map(|difference| (difference, Effect::Told))).collect()
}

/// Returns what makes the model of a checkpoint another one than the run's, but for keys that only
/// training reads.
pub(crate) fn models_differ(saved: &Recorded, now: &Recorded, training: &[&str]) -> Differences {
    let found = models(saved, now).into_iter().filter(|(_, effect)| *effect == Effect::Model);
    without(found.map(|(difference, _)| difference), training)
}

/// Returns what makes an architecture another one than the run's, but for keys that only training
/// reads.
pub(crate) fn architectures_differ(
    stored: &Value,
    now: &Recorded,
    training: &[&str],
) -> Differences {
    let own = now.identity.as_ref().map_or(&Value::Null, |identity| &identity.architecture);
    without(compare(&under("model", stored), &under("model", own)).into_iter(), training)
}

fn without(found: impl Iterator<Item = Difference>, keys: &[&str]) -> Differences {
    let is_left_out = |difference: &Difference| {
        difference.key.strip_prefix("model.").is_some_and(|key| keys.contains(&key))
    };
    Differences(found.filter(|difference| !is_left_out(difference)).collect())
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::config::{Config, schema};

    fn keys(root: &Value, node: &Value, at: &str, found: &mut Vec<String>) {
        let table = schema::properties(root, node).or_else(|| {
            schema::properties(root, schema::resolve(root, node).get("items").unwrap_or(node))
        });
        match table {
            Some(table) => {
                for (key, inner) in table {
                    let dot = if at.is_empty() { "" } else { "." };
                    keys(root, inner, &format!("{at}{dot}{key}"), found);
                }
            }
            None => found.push(at.to_owned()),
        }
    }

    #[test]
    fn every_key_of_the_schema_is_in_one_list() {
        let root = schema::schema_of::<Config>();
        let mut found = Vec::new();
        keys(&root, &root, "", &mut found);
        found.retain(|key| key != "model.name");
        let lists = [&OPTIMIZER[..], &DATA, &CONTENT, &START, &TOLD, &TOLD_OF_CALLBACKS].concat();
        for key in &found {
            let count = lists.iter().filter(|listed| *listed == key).count();
            assert_eq!(count, 1, "`{key}` must be in one list of `train/same_run.rs`");
        }
        for listed in lists {
            assert!(found.iter().any(|key| key == listed), "`{listed}` is no key any more");
        }
    }

    #[test]
    fn a_key_in_no_list_is_refused() {
        let record = |text: &str| Recorded::new(text, None).unwrap();
        let (saved, now) = (record("[new]\nkey = 1"), record("[new]\nkey = 2"));
        assert!(judge(&saved, &now, &[]).refused.contains("new.key"));
    }
}
