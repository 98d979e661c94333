//! Layers: a stronger one wins, tables merge, and every value knows its origin.

use dream_trainer::config::{KeyPath, Origin, Preset};
use dream_trainer::mesh::Degree;

use crate::written::{LEAST, load_texts};

struct Row {
    files: &'static [&'static str],
    variables: &'static [(&'static str, &'static str)],
    sets: &'static [&'static str],
    lr: f64,
    origin: &'static str,
}

#[test]
fn the_strongest_layer_wins_and_is_named() {
    const FIRST: &str = "[optimizer]\nlr = 0.1\n";
    let rows = [
        Row { files: &[], variables: &[], sets: &[], lr: 3e-4, origin: "default" },
        Row { files: &[FIRST], variables: &[], sets: &[], lr: 0.1, origin: "second.toml:2" },
        Row {
            files: &[FIRST, "\n\n[optimizer]\nlr = 0.2\n"],
            variables: &[],
            sets: &[],
            lr: 0.2,
            origin: "third.toml:4",
        },
        Row {
            files: &[FIRST],
            variables: &[("DREAM_TRAIN_OPTIMIZER__LR", "0.3")],
            sets: &[],
            lr: 0.3,
            origin: "env DREAM_TRAIN_OPTIMIZER__LR",
        },
        Row {
            files: &[FIRST],
            variables: &[("DREAM_TRAIN_OPTIMIZER__LR", "0.3")],
            sets: &["optimizer.lr=0.4"],
            lr: 0.4,
            origin: "--set",
        },
        Row {
            files: &[],
            variables: &[],
            sets: &["optimizer.lr = 0.4", " optimizer.lr=5e-1 "],
            lr: 0.5,
            origin: "--set",
        },
        Row {
            files: &[],
            variables: &[("DREAM_TRAIN_OPTIMIZER", "{ lr = 1 }")],
            sets: &[],
            lr: 1.0,
            origin: "env DREAM_TRAIN_OPTIMIZER",
        },
    ];
    for row in rows {
        let files = [&[LEAST], row.files].concat();
        let loaded = load_texts(&files, row.variables, row.sets).unwrap();
        assert_eq!(loaded.config.optimizer.lr, row.lr);
        let origin = loaded.provenance.origin(&KeyPath::dotted("optimizer.lr")).to_string();
        assert!(origin.ends_with(row.origin), "{origin} != {}", row.origin);
    }
}

#[test]
fn tables_merge_and_lists_are_replaced() {
    let first = "[optimizer]\nbetas = [0.8, 0.9]\nlr = 0.1\n[[optimizer.param_groups]]\npattern = \"a\"\n\
                 [[optimizer.param_groups]]\npattern = \"b\"\n";
    let second = "[optimizer]\nlr = 0.2\n[[optimizer.param_groups]]\npattern = \"c\"\n";
    let optimizer = load_texts(&[LEAST, first, second], &[], &[]).unwrap().config.optimizer;
    assert_eq!((optimizer.betas, optimizer.lr), (Some([0.8, 0.9]), 0.2));
    let patterns: Vec<&str> =
        optimizer.param_groups.iter().map(|group| group.pattern.as_str()).collect();
    assert_eq!(patterns, ["c"]);
}

#[test]
fn presets_set_only_degrees_and_lose_to_anything_written() {
    let (auto, one) = (Degree::Auto, Degree::Fixed(1));
    let rows: [(&[&str], [Degree; 2]); 7] = [
        (&[], [one, one]),
        (&["device_parameters.preset=single_device"], [one, one]),
        (&["device_parameters.preset=ddp"], [auto, one]),
        (&["device_parameters.preset=fsdp"], [one, auto]),
        (&["device_parameters.preset=hsdp", "device_parameters.dp_shard=4"], [auto, 4.into()]),
        (&["device_parameters.preset=ddp", "device_parameters.dp_replicate=2"], [2.into(), one]),
        (&["device_parameters.dp_replicate=1", "device_parameters.preset=ddp"], [one, one]),
    ];
    for (sets, expected) in rows {
        let device = load_texts(&[LEAST], &[], sets).unwrap().config.device_parameters;
        assert_eq!([device.dp_replicate, device.dp_shard], expected, "{sets:?}");
        assert_eq!(device.tensor_parallel, one, "{sets:?}");
    }
    let loaded = load_texts(&[LEAST], &[], &["device_parameters.preset=fsdp"]).unwrap();
    let origin = loaded.provenance.origin(&KeyPath::dotted("device_parameters.dp_shard"));
    assert_eq!(origin, Origin::Preset(Preset::Fsdp));
}

#[test]
fn a_later_preset_replaces_an_earlier_one() {
    let files =
        [LEAST, "[device_parameters]\npreset = \"ddp\"", "[device_parameters]\npreset = \"fsdp\""];
    let device = load_texts(&files, &[], &[]).unwrap().config.device_parameters;
    assert_eq!([device.dp_replicate, device.dp_shard], [Degree::Fixed(1), Degree::Auto]);
}

#[test]
fn values_from_outside_are_toml_and_bare_words_are_strings() {
    let rows = [
        ("a/b:c", "a/b:c"),
        ("\"quoted words\"", "quoted words"),
        ("two words", "two words"),
        ("", ""),
        ("5x", "5x"),
        ("'single'", "single"),
    ];
    for (written, expected) in rows {
        let variables = [("DREAM_TRAIN_RUN__PROJECT", written)];
        let set = format!("run.group={written}");
        let run = load_texts(&[LEAST], &variables, &[&set]).unwrap().config.run;
        assert_eq!([run.project.as_str(), run.group.as_str()], [expected, expected]);
    }
}

#[test]
fn foreign_variables_and_the_launcher_choice_are_left_alone() {
    let variables = [("PATH", "/bin"), ("DREAM_TRAIN_LAUNCHER", "none"), ("DREAM_TRAINER__X", "1")];
    load_texts(&[LEAST], &variables, &[]).unwrap();
}

#[test]
fn the_experiment_is_named_after_the_last_file_unless_given() {
    let name = |sets: &[&str]| load_texts(&[LEAST, ""], &[], sets).unwrap().config.run.experiment;
    assert_eq!(name(&[]), "second");
    assert_eq!(name(&["run.experiment=mine"]), "mine");
}

#[test]
fn places_count_lines_and_characters() {
    let text = "[model]\nname = \"mlp\"\n# \u{e4}\u{f6}\n[training_parameters]\n  \"steps\" = 2\noptimizer.lr = 1\n";
    let errors = load_texts(&[text], &[], &[]).unwrap_err();
    let place = &errors.iter().next().unwrap().places[0];
    assert_eq!((place.line(), place.column()), (6, 1));
    let text = "run = { seed = 1, group = 2 }\n[model]\nname = \"mlp\"\n";
    let errors = load_texts(&[text], &[], &[]).unwrap_err();
    let place = &errors.iter().next().unwrap().places[0];
    assert_eq!((place.line(), place.column()), (1, 19));
}
