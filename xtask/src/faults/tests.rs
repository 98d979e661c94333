//! A campaign finds what it is for, and a case is a function of its seed.
#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping it")]

use std::fs;
use std::path::{Path, PathBuf};

use super::dice::Dice;
use super::failure::Fault;
use super::kinds::Kind;
use super::mutation::change_toml;
use super::process::check_text;
use super::record::{Numbers, Rows};
use super::setup::Setup;

/// A folder below the target folder, made anew.
fn folder(name: &str) -> PathBuf {
    let folder = crate::command::root().join("target/faults-tests").join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn rows(name: &str, text: &str) -> Result<Rows, Fault> {
    let folder = folder(name);
    fs::write(folder.join("metrics.jsonl"), text).unwrap();
    Rows::read(&folder).map_err(|failure| failure.fault)
}

#[test]
fn rows_that_are_lost_doubled_torn_or_different_are_found() {
    let whole =
        "{\"step\":1,\"loss\":1.5}\n{\"step\":2,\"loss\":1.25}\n{\"step\":2,\"val_loss\":1.0}\n";
    let reference = rows("whole", whole).unwrap();
    assert_eq!(reference.len(), 3);
    let refused = [
        ("torn", "{\"step\":1,\"loss\":1.5}\n{\"step\":2,\"lo"),
        ("doubled", "{\"step\":1,\"loss\":1.5}\n{\"step\":1,\"loss\":1.5}\n"),
        ("back", "{\"step\":2,\"loss\":1.5}\n{\"step\":1,\"loss\":1.5}\n"),
    ];
    for (name, text) in refused {
        assert_eq!(rows(name, text).unwrap_err(), Fault::Rows, "{name}");
    }
    let check = |name: &str, text: &str, numbers, spared| {
        let found = rows(name, text).unwrap().check(&reference, numbers, spared);
        found.map_err(|failure| failure.fault)
    };
    let lost = "{\"step\":2,\"loss\":1.25}\n{\"step\":2,\"val_loss\":1.0}\n";
    assert_eq!(check("lost", lost, Numbers::Same, 0), Err(Fault::Rows));
    assert_eq!(check("spared", lost, Numbers::Same, 1), Ok(()));
    assert_eq!(check("same", whole, Numbers::Same, 0), Ok(()));
    let other = whole.replace("1.25", "1.2500001");
    assert_eq!(check("other", &other, Numbers::Same, 0), Err(Fault::Bits));
    assert_eq!(check("near", &other, Numbers::Near(1e-3), 0), Ok(()));
    let more = whole.to_owned() + "{\"step\":3,\"loss\":1.0}\n";
    assert_eq!(check("more", &more, Numbers::Any, 0), Err(Fault::Rows));
}

#[test]
fn a_panic_is_found_in_what_was_printed() {
    let bad = [
        "thread 'main' panicked at src/main.rs:1:1:",
        "note: run with `RUST_BACKTRACE=1`",
        "memory allocation of 8 bytes failed",
    ];
    for text in bad {
        assert_eq!(check_text(text, "output").unwrap_err().fault, Fault::Panic, "{text}");
    }
    assert!(check_text("step 1/2  loss 1.0\nerror: `steps` is 0", "output").is_ok());
}

#[test]
fn a_case_is_a_function_of_its_seed_and_number() {
    let choices = |seed, case| {
        let mut dice = Dice::new(seed, case);
        let kind = Kind::choose(&mut dice, false);
        let setup = Setup::choose(&mut dice, None).toml(Path::new("words.txt"));
        let changed = change_toml(&mut dice, &setup);
        format!("{kind} {setup} {changed:?}")
    };
    assert_eq!(choices(1, 5), choices(1, 5));
    assert_ne!(choices(1, 5), choices(1, 6));
    assert_ne!(choices(1, 5), choices(2, 5));
}

#[test]
fn every_kind_comes_up_in_three_hundred_cases() {
    let mut kinds: Vec<Kind> =
        (0..300).map(|case| Kind::choose(&mut Dice::new(1, case), false)).collect();
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!(kinds.len(), 13, "{kinds:?}");
}
