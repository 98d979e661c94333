//! Hugging Face's `config.json`: refused, or the shape of a Llama.
#![no_main]

use dream_models::llama3::Llama3Shape;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(config) = serde_json::from_slice(data) else { return };
    match Llama3Shape::from_hf(&config) {
        Ok(shape) => assert!(shape.dim > 0 && shape.num_layers > 0, "{shape:?}"),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
