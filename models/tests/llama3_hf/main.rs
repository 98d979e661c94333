//! Hugging Face checkpoints: loaded weights give the reference logits, and what cannot be computed
//! exactly is refused.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../../tests/support/tolerance.rs"]
mod tolerance;

mod fields;
mod variants;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use tolerance::MODEL;

use burn::tensor::{Device, Int, Tensor, TensorData};
use dream_models::HfSource;
use dream_models::llama3::{
    Llama3Config, Llama3Shape, TokenLayout, hf_weights, is_redundant_hf_tensor,
};
use dream_trainer::checkpoint::Block;
use dream_trainer::checkpoint::hf::{HfDirectory, HfError};
use dream_trainer::nn::{Scope, assign_values};
use dream_trainer::train::WeightSource;
use serde_json::Value;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/llama_hf").join(name)
}

fn flat<T>(value: &Value, leaf: &impl Fn(&Value) -> T, out: &mut Vec<T>) {
    match value.as_array() {
        Some(values) => values.iter().for_each(|value| flat(value, leaf, out)),
        None => out.push(leaf(value)),
    }
}

fn shape_of(name: &str) -> Llama3Shape {
    let config = Llama3Config { hf_dir: Some(fixture(name)), ..Llama3Config::default() };
    config.resolve().unwrap()
}

/// Loads the weights of a fixture into a model of the given shape; returns how far its logits are
/// from the reference, relative to the largest.
fn largest_deviation(name: &str, shape: &Llama3Shape) -> f64 {
    let dir = fixture(name);
    let (weights, directory) = (hf_weights(shape), HfDirectory::open(&dir).unwrap());
    let device = Device::flex();
    let model = shape.init(&Scope::root(device.clone(), 0));
    let model = assign_values(model, |entry| -> Result<_, HfError> {
        let block = Block::whole(&entry.shape);
        weights[&entry.path].read_block(&directory, &block).map(Some)
    });
    let model = model.unwrap();

    let reference = std::fs::read_to_string(dir.join("reference.json")).unwrap();
    let reference: Value = serde_json::from_str(&reference).unwrap();
    let (mut tokens, mut expected) = (Vec::new(), Vec::new());
    flat(&reference["tokens"], &|x| x.as_i64().unwrap(), &mut tokens);
    flat(&reference["logits"], &|x| x.as_f64().unwrap(), &mut expected);
    let tokens = TensorData::new(tokens, [2, 24]);
    let tokens = Tensor::<2, Int>::from_data(tokens, &device);
    let hidden = model.forward(tokens, &TokenLayout::default());
    let logits = model.logits(hidden).into_data();
    let logits = logits.as_slice::<f32>().unwrap();

    assert_eq!(logits.len(), expected.len());
    let scale = expected.iter().fold(0.0, |max: f64, x| max.max(x.abs()));
    let differences = logits.iter().zip(&expected).map(|(x, y)| (f64::from(*x) - y).abs());
    differences.fold(0.0, f64::max) / scale
}

#[test]
fn loaded_weights_give_the_reference_logits() {
    for name in ["tied_single_file", "untied_two_files", "rope_parameters"] {
        let deviation = largest_deviation(name, &shape_of(name));
        assert!(deviation <= MODEL, "{name}: deviates by {deviation:e} of the largest logit");
    }
}

#[test]
fn reference_logits_notice_a_field_that_is_not_honored() {
    let name = "untied_two_files";
    let shape = shape_of(name);
    let rows = [
        ("rope_scaling", Llama3Shape { rope_scaling: None, ..shape.clone() }),
        ("rope_theta", Llama3Shape { rope_theta: 10_000.0, ..shape.clone() }),
        ("rms_norm_eps", Llama3Shape { norm_eps: 1e-6, ..shape.clone() }),
        ("heads", Llama3Shape { num_heads: 8, num_kv_heads: 2, head_dim: 8, ..shape }),
    ];
    for (field, shape) in rows {
        let deviation = largest_deviation(name, &shape);
        assert!(deviation > 1e-4, "{field}: deviates by {deviation:e} only");
    }
}

#[test]
fn a_folder_shows_what_does_not_fit_the_model() {
    let source = |shape: &Llama3Shape| {
        let directory = HfDirectory::open(&fixture("tied_single_file")).unwrap();
        HfSource::new(directory, hf_weights(shape), |name| is_redundant_hf_tensor(shape, name))
    };
    let shape = shape_of("tied_single_file");
    let all: BTreeSet<String> = hf_weights(&shape).into_keys().collect();
    assert_eq!(source(&shape).paths(), all);
    let shallower = Llama3Shape { num_layers: 1, ..shape.clone() };
    assert!(source(&shallower).paths().contains("model.layers.1.input_layernorm.weight"));
    let untied = Llama3Shape { tied_embeddings: false, ..shape.clone() };
    assert!(!source(&untied).paths().contains("output.weight"));

    let wider = Llama3Shape { ffn_dim: 64, ..shape };
    let path = "layers.0.feed_forward.w1.weight";
    let block = dream_trainer::mesh::Block::whole(&[32, 64]);
    let error = source(&wider).read(path, &[32, 64], &block).unwrap_err();
    assert_eq!(
        error.to_string(),
        "tensor `model.layers.0.mlp.gate_proj.weight` has shape [48, 32] but the model needs [64, 32]"
    );
}
