//! No input makes the reader panic, and every refusal can be shown.

use dream_trainer::config::ConfigErrors;
use proptest::prelude::*;

use crate::written::{LEAST, load_texts, plain};

const VALID: &str = "[model]\nname = \"mlp\"\nwidth = [1, 2]\n[training_parameters]\nsteps = 2\nglobal_batch_size = 8\n\
    [device_parameters]\npreset = \"ddp\"\nworld_size = 2\nmesh_order = [\"pp\", \"dp\", \"cp\", \"tp\"]\n\
    [device_parameters.pipeline]\nschedule = \"1f1b\"\n[optimizer]\nbetas = [0.9, 0.95]\n\
    [[optimizer.param_groups]]\npattern = \"norm\"\nlr_scale = 0.5\n[data]\nsource = \"text\"\nfiles = [\"a\"]\n\
    [lr_scheduler]\nname = \"wsd\"\ndecay_ratio = 0.1\n[checkpoint]\nresume = \"auto\"\n[metrics]\npeak_flops = 1e12\n";

/// Goes all the way with whatever loads; refusals are rendered, since that slices the texts.
fn exercise(outcome: Result<dream_trainer::config::Loaded, ConfigErrors>) {
    let errors = match outcome {
        Ok(loaded) => match loaded.resolve(None) {
            Ok(plan) => return drop(loaded.show(&plan)),
            Err(errors) => errors,
        },
        Err(errors) => errors,
    };
    assert!(!plain(&errors).is_empty() && !errors.to_string().is_empty());
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<i64>().prop_map(|n| n.to_string()),
        any::<f64>().prop_map(|x| format!("{x:e}")),
        Just("\"auto\"".into()),
        Just("nan".into()),
        Just("-inf".into()),
        Just("[]".into()),
        Just("{}".into()),
        Just("[{}, 1]".into()),
        Just("1979-05-27".into()),
        Just("true".into()),
        "\"[^\"\\\\\\p{Cc}]{0,8}\"",
        "\\PC{0,12}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_text_never_panics(text in "\\PC{0,200}", lines in prop::collection::vec("[\\[\\]a-z_.=\"{} \n0-9#'-]{0,20}", 0..8)) {
        exercise(load_texts(&[&text], &[], &[]));
        exercise(load_texts(&[LEAST, &lines.join("\n")], &[], &[]));
    }

    #[test]
    fn mutated_text_never_panics(at in 0..VALID.len(), removed in 0..12_usize, added in "\\PC{0,6}") {
        let end = (at + removed).min(VALID.len());
        exercise(load_texts(&[&format!("{}{added}{}", &VALID[..at], &VALID[end..])], &[], &[]));
    }

    #[test]
    fn replaced_values_never_panic(line in 0..VALID.lines().count(), value in value()) {
        let text: Vec<String> = VALID.lines().enumerate().map(|(index, text)| match text.split_once(" = ") {
            Some((key, _)) if index == line => format!("{key} = {value}"),
            _ => text.to_owned(),
        }).collect();
        exercise(load_texts(&[&text.join("\n")], &[], &[]));
    }

    #[test]
    fn overrides_never_panic(set in "\\PC{0,40}", key in "[a-z_.=\\[\\] ]{0,30}", value in value()) {
        exercise(load_texts(&[LEAST], &[], &[&set]));
        exercise(load_texts(&[LEAST], &[], &[&format!("{key}={value}")]));
        exercise(load_texts(&[LEAST], &[(&format!("DREAM_TRAIN_{}", key.to_uppercase()), &value)], &[]));
        exercise(load_texts(&[LEAST], &[], &[&format!("device_parameters.dp_shard={value}")]));
    }
}

#[test]
fn deep_nesting_is_refused_and_not_followed() {
    let array = format!("x = {}{}", "[".repeat(5000), "]".repeat(5000));
    exercise(load_texts(&[&array], &[], &[]));
    let table = format!("{}x = 1", "a.".repeat(5000));
    exercise(load_texts(&[&table], &[], &[]));
    let header = format!("[{}x]", "a.".repeat(5000));
    exercise(load_texts(&[&header], &[], &[]));
}
