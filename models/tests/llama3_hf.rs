//! Hugging Face checkpoints: loaded weights give the reference logits, and what cannot be computed
//! exactly is refused.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../tests/support/tolerance.rs"]
mod tolerance;

use std::path::{Path, PathBuf};
use tolerance::MODEL;

use burn::tensor::{Device, Int, Tensor, TensorData};
use dream_models::check_hf_tensors;
use dream_models::llama3::{
    Flavor, Llama3Config, Llama3Shape, TokenLayout, hf_weights, is_redundant_hf_tensor,
};
use dream_trainer::checkpoint::Block;
use dream_trainer::checkpoint::hf::{HfDirectory, HfError};
use dream_trainer::nn::{Scope, assign_values};
use serde_json::{Value, json};

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
    check_hf_tensors(&weights, &directory, |name| is_redundant_hf_tensor(shape, name)).unwrap();
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
fn folder_of_another_shape_is_refused() {
    let dir = HfDirectory::open(&fixture("tied_single_file")).unwrap();
    let shape = Llama3Shape::from_hf(dir.config()).unwrap();
    let check = |shape: &Llama3Shape| {
        let error = check_hf_tensors(&hf_weights(shape), &dir, |_| false);
        error.unwrap_err().to_string()
    };
    let wider = Llama3Shape { ffn_dim: 64, ..shape.clone() };
    assert_eq!(
        check(&wider),
        "tensor `model.layers.0.mlp.gate_proj.weight` has shape [48, 32] but the model needs [64, 32]"
    );
    let shallower = Llama3Shape { num_layers: 1, ..shape.clone() };
    assert_eq!(
        check(&shallower),
        "tensor `model.layers.1.input_layernorm.weight` belongs to no parameter of the model"
    );
    let untied = Llama3Shape { tied_embeddings: false, ..shape };
    assert!(check(&untied).contains("lm_head.weight"), "{}", check(&untied));
}

/// A config like Llama 3.1 8B's, with one field changed; `null` takes it away.
fn config_with(field: &str, value: Value) -> Value {
    let mut config = json!({
        "architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
        "bos_token_id": 128_000, "eos_token_id": [128_001, 128_008], "hidden_act": "silu",
        "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336,
        "max_position_embeddings": 131_072, "mlp_bias": false, "model_type": "llama",
        "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
        "pretraining_tp": 1, "rms_norm_eps": 1e-5, "rope_theta": 500_000.0,
        "rope_scaling": {
            "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192, "rope_type": "llama3"
        },
        "tie_word_embeddings": false, "torch_dtype": "bfloat16", "transformers_version": "4.43.0",
        "use_cache": true, "vocab_size": 128_256
    });
    config[field] = value;
    config
}

#[test]
fn config_of_a_published_model_is_its_flavor() {
    let config = config_with("rope_interleaved", Value::Null);
    let shape = Llama3Shape::from_hf(&config).unwrap();
    assert_eq!(shape, Llama3Shape::flavor(Flavor::B8));
}

#[test]
fn absent_fields_take_the_defaults_of_the_format() {
    type Read = fn(&Llama3Shape) -> f64;
    let rows: [(&str, Read, f64); 7] = [
        ("num_key_value_heads", |shape| shape.num_kv_heads as f64, 32.0),
        ("head_dim", |shape| shape.head_dim as f64, 128.0),
        ("rms_norm_eps", |shape| shape.norm_eps, 1e-6),
        ("rope_theta", |shape| shape.rope_theta, 10_000.0),
        ("max_position_embeddings", |shape| shape.max_seq_len as f64, 2048.0),
        ("tie_word_embeddings", |shape| f64::from(u8::from(shape.tied_embeddings)), 0.0),
        ("rope_scaling", |shape| f64::from(u8::from(shape.rope_scaling.is_some())), 0.0),
    ];
    for (field, read, expected) in rows {
        let shape = Llama3Shape::from_hf(&config_with(field, Value::Null)).unwrap();
        assert_eq!(read(&shape), expected, "{field}");
    }
}

#[test]
fn fields_that_change_the_mathematics_are_refused() {
    let rope = |kind: &str| json!({ "rope_type": kind, "factor": 2.0 });
    let rows = [
        ("model_type", json!("mistral")),
        ("model_type", Value::Null),
        ("architectures", json!(["LlamaForSequenceClassification"])),
        ("hidden_act", json!("gelu")),
        ("attention_bias", json!(true)),
        ("mlp_bias", json!(true)),
        ("attention_dropout", json!(0.1)),
        ("pretraining_tp", json!(2)),
        ("hidden_size", Value::Null),
        ("hidden_size", json!("4096")),
        ("hidden_size", json!(4100)),
        ("num_attention_heads", json!(0)),
        ("num_key_value_heads", json!(5)),
        ("head_dim", json!(3)),
        ("rms_norm_eps", json!(-1.0)),
        ("vocab_size", json!(-3)),
        ("rope_scaling", rope("linear")),
        ("rope_scaling", rope("dynamic")),
        ("rope_scaling", rope("yarn")),
        ("rope_scaling", rope("llama3")),
        ("rope_scaling", rope("default")),
        ("rope_scaling", json!({ "type": "linear", "factor": 2.0 })),
        ("rope_scaling", json!([8.0])),
        ("rope_parameters", json!({ "rope_type": "default", "rope_theta": 1e4 })),
        ("sliding_window", json!(4096)),
        ("partial_rotary_factor", json!(0.5)),
        ("quantization_config", json!({ "bits": 4 })),
        ("embedding_multiplier", json!(12.0)),
        ("final_logit_softcapping", json!(30.0)),
        ("layer_types", json!(["full_attention"])),
        ("num_local_experts", json!(8)),
        ("some_future_field", json!(true)),
    ];
    let messages = rows.map(|(field, value)| {
        let shown = format!("{field} = {value}");
        match Llama3Shape::from_hf(&config_with(field, value)) {
            Ok(_) => panic!("{shown} was accepted"),
            Err(error) => match std::error::Error::source(&error) {
                Some(source) => format!("{shown}: {error}: {source}"),
                None => format!("{shown}: {error}"),
            },
        }
    });
    insta::assert_snapshot!(messages.join("\n"));
}
