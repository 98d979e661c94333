//! Configurations written by tests.

use std::collections::BTreeMap;

use dream_trainer::config::{
    ConfigErrors, Loaded, ReportStyle, ResolvedConfig, Sources, load, render,
};

/// The least a configuration must say.
pub(crate) const LEAST: &str = "[model]\nname = \"mlp\"\n[training_parameters]\nsteps = 2\n";

/// Loads files with the given texts, named `first.toml`, `second.toml` and so on, with variables
/// and `--set` arguments.
pub(crate) fn load_texts(
    texts: &[&str],
    variables: &[(&str, &str)],
    sets: &[&str],
) -> Result<Loaded, ConfigErrors> {
    let folder = tempfile::tempdir().unwrap();
    let names = ["first.toml", "second.toml", "third.toml"];
    let files = texts.iter().zip(names).map(|(text, name)| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    });
    let files = files.collect();
    let environment: BTreeMap<String, String> =
        variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    let sets = sets.iter().map(|set| (*set).into()).collect();
    load(&Sources { files, environment, sets, ..Sources::default() })
}

/// Loads the least configuration with `--set` arguments.
pub(crate) fn load_sets(sets: &[&str]) -> Result<Loaded, ConfigErrors> {
    load_texts(&[LEAST], &[], sets)
}

/// Loads and resolves the least configuration with `--set` arguments.
pub(crate) fn resolve_sets(
    sets: &[&str],
    launched: Option<usize>,
) -> Result<ResolvedConfig, ConfigErrors> {
    load_sets(sets)?.resolve(launched)
}

/// Shows errors as a pipe would see them.
pub(crate) fn plain(errors: &ConfigErrors) -> String {
    render(errors, ReportStyle::plain(100))
}
