//! Every file in `tests/invalid_configs` is refused, with the message its snapshot holds.

use std::path::{Path, PathBuf};

use dream_trainer::config::{ConfigErrors, Sources, load};

use crate::written::{load_sets, load_texts, plain};

/// Name of the snapshot, variables, `--set` arguments.
type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [&'a str]);

const FOLDER: &str = "../tests/invalid_configs";

fn refuse(file: &Path) -> ConfigErrors {
    let sources = Sources { files: vec![file.to_owned()], ..Sources::default() };
    let outcome = load(&sources).and_then(|loaded| loaded.resolve(None).map(|_| ()));
    outcome.expect_err(&format!("{} must be refused", file.display()))
}

#[test]
fn invalid_files_are_refused_with_their_messages() {
    let folder = PathBuf::from(FOLDER);
    let mut files: Vec<PathBuf> =
        folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() > 30, "the folder of invalid configurations is incomplete");
    for file in files {
        let errors = refuse(&file);
        let name = file.file_stem().unwrap().to_str().unwrap();
        let text = plain(&errors).replace(&format!("{FOLDER}/"), "");
        insta::with_settings!({prepend_module_to_snapshot => false}, {
            insta::assert_snapshot!(name, text);
        });
        // A message without a line is for what is nowhere written.
        let is_absent = ["no_model", "steps"].iter().any(|absent| name.contains(absent));
        let has_place = errors.iter().all(|error| !error.places.is_empty());
        assert!(has_place || is_absent, "{name} names no place");
    }
}

#[test]
fn errors_outside_files_name_the_variable_or_argument() {
    let too_deep = format!("{}=1", vec!["a"; 100].join("."));
    let rows: [Row; 9] = [
        ("set_without_value", &[], &["optimizer.lr"]),
        ("set_unknown_key", &[], &["optimizer.lrr=1"]),
        ("set_wrong_type", &[], &["training_parameters.steps=many"]),
        ("set_syntax_error", &[], &["optimizer.betas=[0.9, "]),
        ("set_empty_key", &[], &[".lr=1"]),
        ("set_too_deep", &[], &[&too_deep]),
        ("variable_unknown_table", &[("DREAM_TRAIN_OPTIMISER__LR", "1")], &[]),
        ("variable_wrong_type", &[("DREAM_TRAIN_OPTIMIZER__LR", "fast")], &[]),
        ("variable_empty_level", &[("DREAM_TRAIN_OPTIMIZER____LR", "1")], &[]),
    ];
    for (name, variables, sets) in rows {
        let errors = load_texts(&[crate::written::LEAST], variables, sets).expect_err(name);
        insta::with_settings!({prepend_module_to_snapshot => false}, {
            insta::assert_snapshot!(name, plain(&errors));
        });
    }
}

#[test]
fn settings_elsewhere_that_take_part_are_named() {
    let sets = ["training_parameters.global_batch_size=10", "device_parameters.preset=ddp"];
    let errors = load_sets(&sets).unwrap().resolve(Some(4)).unwrap_err();
    insta::with_settings!({prepend_module_to_snapshot => false}, {
        insta::assert_snapshot!("settings_in_two_places", plain(&errors));
    });
}

#[test]
fn a_missing_file_is_named() {
    let errors = refuse(Path::new("no/such/file.toml"));
    insta::with_settings!({prepend_module_to_snapshot => false}, {
        insta::assert_snapshot!("missing_file", plain(&errors));
    });
}

#[test]
fn a_file_that_is_not_text_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("binary.toml");
    std::fs::write(&file, [0xff, 0xfe, 0x00]).unwrap();
    assert!(refuse(&file).to_string().contains("binary.toml"));
    assert!(plain(&refuse(&file)).contains("it is UTF-16; save it as UTF-8"));
    std::fs::write(&file, "[model]\nname = \"m\0lp\"\n").unwrap();
    assert!(refuse(&file).to_string().contains("binary.toml:2:10: not valid TOML"));
}

#[test]
fn one_line_form_holds_place_key_and_constraint() {
    let rows = [
        (
            "unknown_key_in_device_parameters",
            ".toml:9:1: unknown key `device_parameters.pipeline_paralel`",
        ),
        (
            "zero_degree",
            "`device_parameters.tensor_parallel` is 0 but must be an integer of at least 1",
        ),
        ("product_is_not_the_world", "product 48"),
        (
            "negative_numbers",
            "`training_parameters.global_batch_size` is 0 but must be an integer of at least 1",
        ),
    ];
    for (name, expected) in rows {
        let text = refuse(&PathBuf::from(FOLDER).join(format!("{name}.toml"))).to_string();
        assert!(text.contains(expected), "{name}: {text}");
    }
}

#[test]
fn colored_and_unicode_reports_say_the_same_words() {
    let errors = load_sets(&["optimizer.lrr=1"]).unwrap_err();
    let style =
        dream_trainer::config::ReportStyle { is_colored: true, is_unicode: true, width: 80 };
    let text = dream_trainer::config::render(&errors, style);
    assert!(text.contains("\u{1b}["), "{text}");
    assert!(text.contains("did you mean `lr`?"), "{text}");
}

#[cfg(unix)]
#[test]
fn only_regular_files_of_some_megabytes_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let large = folder.path().join("large.toml");
    std::fs::write(&large, "#".repeat(5 << 20)).unwrap();
    let pipe = folder.path().join("pipe.toml");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    for file in [large.as_path(), &pipe, folder.path(), Path::new("/dev/zero")] {
        let errors = refuse(file);
        assert!(errors.to_string().starts_with("cannot read configuration file"), "{errors}");
    }
    // The same file twice is the file.
    let file = folder.path().join("run.toml");
    std::fs::write(&file, crate::written::LEAST).unwrap();
    let sources = Sources { files: vec![file.clone(), file], ..Sources::default() };
    load(&sources).unwrap().resolve(None).unwrap();
}
