//! Every shipped configuration loads and plans, and the small ones train.
#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping it")]

#[allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]
mod support;

use std::fs;
use std::path::{Path, PathBuf};

use dream_trainer::config::{self, Sources};
use dream_trainer::recipe::find;

/// Largest model that is trained here, in parameters.
const SMALL: usize = 10_000_000;

fn shipped() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() >= 5, "{paths:?}");
    paths
}

#[test]
fn each_loads_plans_and_knows_its_parameters() {
    let recipes = support::recipes();
    for path in shipped() {
        let sources = Sources { files: vec![path.clone()], ..Sources::default() };
        let loaded =
            config::load(&sources).unwrap_or_else(|errors| panic!("{}: {errors}", path.display()));
        let resolved =
            loaded.resolve(None).unwrap_or_else(|errors| panic!("{}: {errors}", path.display()));
        let recipe = find(&recipes, &resolved.model).unwrap();
        match recipe.prepare(&loaded, &resolved) {
            Ok(prepared) => assert!(!prepared.parameters().unwrap().is_empty()),
            // A plan for hardware that this build does not drive says so, and names the key.
            Err(error) => assert!(
                error.to_string().contains("device_parameters."),
                "{}: {error}",
                path.display()
            ),
        }
    }
}

#[test]
fn small_ones_take_two_steps() {
    let recipes = support::recipes();
    let mut num_trained = 0;
    for path in shipped() {
        let sources = Sources { files: vec![path.clone()], ..Sources::default() };
        let loaded = config::load(&sources).unwrap();
        let resolved = loaded.resolve(None).unwrap();
        let recipe = find(&recipes, &resolved.model).unwrap();
        let Ok(prepared) = recipe.prepare(&loaded, &resolved) else { continue };
        let num_params: usize = prepared
            .parameters()
            .unwrap()
            .iter()
            .map(dream_trainer::nn::ParameterEntry::num_elements)
            .sum();
        if num_params > SMALL {
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let mut sets = vec!["training_parameters.steps=2"];
        if resolved.model.name() != "mlp" {
            sets.extend(["training_parameters.sequence_length=32", "lr_scheduler.warmup_steps=1"]);
        }
        sets.extend(resolved.training.val_every_n_steps.map(|_| "training_parameters.val_steps=1"));
        let (outcome, seen) = support::Run::new(folder.path(), &text).with(&sets).go().unwrap();
        assert_eq!(outcome.step, 2, "{}", path.display());
        assert!(seen.steps.iter().all(|step| step.loss.is_finite()), "{}", path.display());
        num_trained += 1;
    }
    assert!(num_trained >= 4);
}
