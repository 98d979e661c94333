//! Biases and every scaling of the rotary positions give what Hugging Face's Llama computes.
//!
//! The references come from `transformers` itself: `tests/fixtures/make_llama_variants.py`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Int, Tensor, TensorData};
use dream_models::llama3::{Llama3Shape, TokenLayout, hf_weights};
use dream_trainer::checkpoint::Block;
use dream_trainer::checkpoint::hf::{HfDirectory, HfError};
use dream_trainer::kernels::{IGNORE_INDEX, RopePositions};
use dream_trainer::nn::{Scope, assign_values, take_gradients};
use serde_json::{Value, json};

use crate::tolerance::{MODEL, OPERATION};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/llama_variants")
}

fn reference() -> Value {
    let text = std::fs::read_to_string(folder().join("reference.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

/// Returns the folder's `config.json` with changes, of which `null` takes a field away.
fn changed(changes: &Value) -> Llama3Shape {
    let mut config = HfDirectory::open(&folder()).unwrap().config().clone();
    for (field, value) in changes.as_object().unwrap() {
        config[field] = value.clone();
    }
    // The model is run on sequences longer than it was trained on, as the reference is.
    Llama3Shape { max_seq_len: 64, ..Llama3Shape::from_hf(&config).unwrap() }
}

/// What a model computes of the reference's tokens.
struct Computed {
    logits: Vec<f64>,
    loss: f64,
    /// Weights and gradients by path.
    weights: BTreeMap<String, Vec<f64>>,
    gradients: BTreeMap<String, Vec<f64>>,
}

fn compute(shape: &Llama3Shape, tokens: &[i64], layout: &TokenLayout) -> Computed {
    let directory = HfDirectory::open(&folder()).unwrap();
    let table = hf_weights(shape);
    let device = Device::flex().autodiff();
    let model = shape.init(&Scope::root(device.clone(), 0));
    let mut weights = BTreeMap::new();
    let model = assign_values(model, |entry| -> Result<_, HfError> {
        let data = table[&entry.path].read_block(&directory, &Block::whole(&entry.shape))?;
        weights.insert(entry.path.clone(), data.iter::<f64>().collect());
        Ok(Some(data))
    });
    let model = model.unwrap();
    let plain = device.inner();
    let labels: Vec<i64> = tokens[1..].iter().copied().chain([IGNORE_INDEX]).collect();
    let ids = |ids: &[i64]| TensorData::new(ids.to_vec(), [1, ids.len()]);
    let hidden = model.forward(Tensor::<2, Int>::from_data(ids(tokens), &plain), layout);
    let logits = model.logits(hidden.clone()).into_data().iter::<f64>().collect();
    let labels = Tensor::<2, Int>::from_data(ids(&labels), &plain);
    let loss = model.head_weight().unwrap().cross_entropy(hidden, labels);
    let value = loss.clone().into_data().iter::<f64>().next().unwrap();
    let mut gradients = BTreeMap::new();
    take_gradients(&model, &mut loss.backward(), |path, gradient| {
        gradients.insert(path.to_owned(), gradient.into_data().iter::<f64>().collect());
    });
    Computed { logits, loss: value, weights, gradients }
}

/// Asserts that numbers agree to a share of the largest.
#[track_caller]
fn agree(what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(0.0, |max: f64, x| max.max(x.abs()));
    let differences = found.iter().zip(expected).map(|(x, y)| (x - y).abs());
    let deviation = differences.fold(0.0, f64::max) / scale;
    assert!(deviation <= tolerance, "{what}: deviates by {deviation:e} of the largest");
}

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|x| x * x).sum::<f64>().sqrt()
}

#[test]
fn every_variant_gives_the_logits_loss_and_gradients_of_transformers() {
    let reference = reference();
    let tokens: Vec<i64> = numbers(&reference["tokens"]).iter().map(|x| *x as i64).collect();
    for (name, case) in reference["cases"].as_object().unwrap() {
        let shape = changed(&case["config"]);
        let computed = compute(&shape, &tokens, &TokenLayout::default());
        agree(&format!("{name}: logits"), &computed.logits, &numbers(&case["logits"]), MODEL);
        agree(&format!("{name}: loss"), &[computed.loss], &[case["loss"].as_f64().unwrap()], MODEL);
        let table = hf_weights(&shape);
        let expected = case["gradients"].as_object().unwrap();
        assert_eq!(table.len(), expected.len(), "{name}: parameters");
        let whole = norm(&expected.values().map(|pair| numbers(pair)[0]).collect::<Vec<_>>());
        for (path, weight) in &table {
            let (found, pair) = (&computed.gradients[path], numbers(&expected[&weight.name]));
            let product: f64 = found.iter().zip(&computed.weights[path]).map(|(g, w)| g * w).sum();
            // That of a key's bias, which shifts all scores of a query alike where positions turn
            // slowly, is small: it is compared to the whole.
            let scale = pair[0].max(1e-2 * whole);
            let weights = norm(&computed.weights[path]);
            let what = format!("{name}: gradient of {path}");
            assert!((norm(found) - pair[0]).abs() <= MODEL * scale, "{what}: its norm");
            assert!((product - pair[1]).abs() <= MODEL * scale * weights, "{what}: its direction");
        }
        // Theirs is `[out, in]`.
        let keys = &computed.gradients["layers.0.attention.wk.weight"];
        let width = shape.num_kv_heads * shape.head_dim;
        let transposed: Vec<f64> =
            (0..keys.len()).map(|i| keys[i % shape.dim * width + i / shape.dim]).collect();
        agree(&format!("{name}: keys"), &transposed, &numbers(&case["keys_gradient"]), MODEL);
    }
}

#[test]
fn references_tell_the_variants_apart() {
    let reference = reference();
    let tokens: Vec<i64> = numbers(&reference["tokens"]).iter().map(|x| *x as i64).collect();
    let plain = Llama3Shape { rope_scaling: None, ..changed(&json!({})) };
    let plain = compute(&plain, &tokens, &TokenLayout::default()).logits;
    for (name, case) in reference["cases"].as_object().unwrap() {
        let logits = numbers(&case["logits"]);
        let difference =
            logits.iter().zip(&plain).fold(0.0, |max: f64, (x, y)| max.max((x - y).abs()));
        let is_plain = ["both biases", "dynamic, within the original"].contains(&name.as_str());
        assert_eq!(difference < 1e-3, is_plain, "{name}: differs by {difference}");
    }
}

#[test]
fn positions_per_token_stretch_by_the_largest_of_them() {
    let reference = reference();
    let tokens: Vec<i64> = numbers(&reference["tokens"]).iter().map(|x| *x as i64).collect();
    let case = &reference["cases"]["dynamic, longer than the original"];
    let ids: Vec<i64> = (0..tokens.len() as i64).collect();
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [1, tokens.len()]), &Device::flex());
    let layout = TokenLayout { positions: RopePositions::PerToken(ids), ..TokenLayout::default() };
    let computed = compute(&changed(&case["config"]), &tokens, &layout);
    agree("logits", &computed.logits, &numbers(&case["logits"]), MODEL);
}

#[test]
fn frequencies_of_published_sizes_are_those_of_transformers() {
    for row in reference()["frequencies"].as_array().unwrap() {
        let mut config = row["config"].clone();
        for (field, value) in [
            ("model_type", json!("llama")),
            ("hidden_size", json!(4096)),
            ("num_attention_heads", json!(32)),
            ("num_hidden_layers", json!(1)),
            ("intermediate_size", json!(64)),
            ("vocab_size", json!(64)),
        ] {
            config[field] = value;
        }
        let shape = Llama3Shape::from_hf(&config).unwrap();
        let found = shape.rope_frequencies(row["tokens"].as_u64().unwrap() as usize);
        let expected = numbers(&row["inverse_frequencies"]);
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            // Theirs are f32 powers of f32 numbers.
            let deviation = (found / expected - 1.0).abs();
            assert!(deviation <= 2.0 * OPERATION, "{}: {found} is not {expected}", row["name"]);
        }
        let factor = row["attention_factor"].as_f64().unwrap();
        assert!((shape.rope_magnitude() - factor).abs() < OPERATION, "{}", row["name"]);
    }
}

#[test]
fn a_short_batch_after_a_long_one_is_computed_as_if_alone() {
    let reference = reference();
    let tokens: Vec<i64> = numbers(&reference["tokens"]).iter().map(|x| *x as i64).collect();
    let shape = changed(&reference["cases"]["dynamic, longer than the original"]["config"]);
    let device = Device::flex();
    let model = shape.init(&Scope::root(device.clone(), 0));
    let logits = |length: usize| {
        let ids = TensorData::new(tokens[..length].to_vec(), [1, length]);
        let ids = Tensor::<2, Int>::from_data(ids, &device);
        model.logits(model.forward(ids, &TokenLayout::default())).into_data()
    };
    let alone = logits(18);
    logits(24);
    assert_eq!(logits(18), alone);
}
