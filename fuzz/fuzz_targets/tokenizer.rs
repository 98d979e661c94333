//! `tokenizer.json`: refused, or one whose ids lie in its vocabulary.
#![no_main]

use std::path::Path;

use dream_train_fuzz::{allow_caught_panics, file, halves};
use dream_trainer::data::{Tokenizer, TokenizerChoice};
use libfuzzer_sys::fuzz_target;

fuzz_target!(
    init: allow_caught_panics(),
    |data: &[u8]| {
        let (text, json) = halves(data);
        let path = file("tokenizer.json", json);
        let Ok(tokenizer) = Tokenizer::load(&TokenizerChoice::File(path)) else { return };
        let mut ids = Vec::new();
        if tokenizer.encode(text, Path::new("text"), &mut ids).is_ok() {
            assert!(ids.iter().all(|id| (*id as usize) < tokenizer.vocab_size()));
        }
    }
);
