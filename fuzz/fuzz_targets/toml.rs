//! Configurations: whatever the text, it is a plan or a refusal that can be shown.
#![no_main]

use dream_train_fuzz::file;
use dream_trainer::config::{self, ReportStyle, Sources, render};
use dream_trainer::recipe::find;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let files = vec![file("run.toml", data)];
    let sources = Sources { files, ..Sources::default() };
    let refused = |errors: &config::ConfigErrors| {
        assert!(!render(errors, ReportStyle::plain(100)).is_empty());
    };
    let loaded = match config::load(&sources) {
        Ok(loaded) => loaded,
        Err(errors) => return refused(&errors),
    };
    let resolved = match loaded.resolve(None) {
        Ok(resolved) => resolved,
        Err(errors) => return refused(&errors),
    };
    assert!(!loaded.show(&resolved).is_empty());
    let recipes = dream_models::recipes();
    match find(&recipes, &resolved.model) {
        Err(errors) => refused(&errors),
        Ok(recipe) => drop(recipe.prepare(&loaded, &resolved)),
    }
});
