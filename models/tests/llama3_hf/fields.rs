//! What fields of a `config.json` do: they give the shape, change nothing, or are refused.

use dream_models::llama3::{Flavor, Llama3Shape, RopeScaling};
use serde_json::{Value, json};

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

/// The published `config.json` of Llama 3.2 1B and 3B and Llama 3.1 8B, 70B and 405B.
#[test]
fn configs_of_published_models_are_the_flavors() {
    // dim, layers, heads, head_dim, feed-forward width, tied, rope factor.
    let rows = [
        (Flavor::B1, 2048, 16, 32, Some(64), 8192, true, 32.0),
        (Flavor::B3, 3072, 28, 24, Some(128), 8192, true, 32.0),
        (Flavor::B8, 4096, 32, 32, None, 14336, false, 8.0),
        (Flavor::B70, 8192, 80, 64, None, 28672, false, 8.0),
        (Flavor::B405, 16384, 126, 128, None, 53248, false, 8.0),
    ];
    for (flavor, dim, layers, heads, head_dim, ffn, tied, factor) in rows {
        let mut config = config_with("hidden_size", json!(dim));
        config["num_hidden_layers"] = json!(layers);
        config["num_attention_heads"] = json!(heads);
        config["head_dim"] = json!(head_dim);
        config["intermediate_size"] = json!(ffn);
        config["tie_word_embeddings"] = json!(tied);
        config["rope_scaling"]["factor"] = json!(factor);
        let shape = Llama3Shape::from_hf(&config).unwrap();
        assert_eq!(shape, Llama3Shape::flavor(flavor));
    }
}

/// What libraries and people write into a `config.json` beside the model.
#[test]
fn fields_that_change_no_mathematics_are_accepted() {
    let expected = Llama3Shape::flavor(Flavor::B8);
    let scaling = config_with("x", Value::Null)["rope_scaling"].clone();
    let mut newer = scaling.clone();
    newer["rope_theta"] = json!(500_000.0);
    let mut old_name = scaling.clone();
    old_name["type"] = json!("llama3");
    let rows = [
        ("is_llama_config", json!(true)),
        ("rope_interleaved", json!(false)),
        ("unsloth_fixed", json!(true)),
        ("unsloth_version", json!("2026.1.1")),
        ("unsloth_training_args", json!({ "r": 16 })),
        ("auto_map", json!({ "AutoModelForCausalLM": "modeling_llama.LlamaForCausalLM" })),
        ("transformers.js_config", json!({ "dtype": "q4", "use_external_data_format": true })),
        ("_name_or_path", json!("meta-llama/Llama-3.1-8B")),
        ("_attn_implementation_autoset", json!(true)),
        ("torch_dtype", json!("float16")),
        ("dtype", json!("bfloat16")),
        ("transformers_version", json!("5.24.0")),
        ("use_cache", json!(false)),
        ("pretraining_tp", json!(1)),
        ("pretraining_tp", Value::Null),
        ("temperature", json!(0.6)),
        ("top_p", json!(0.9)),
        ("do_sample", json!(true)),
        ("max_length", json!(4096)),
        ("quantization_config", Value::Null),
        ("partial_rotary_factor", json!(1)),
        ("attention_dropout", json!(0)),
        ("layer_types", json!(["full_attention", "full_attention"])),
        ("use_sliding_window", json!(false)),
        ("sliding_window", Value::Null),
        ("pad_token_id", json!(-1)),
        ("max_sequence_length", json!(2048)),
        ("pruned_heads", json!({})),
        ("hidden_act", json!("swish")),
        ("architectures", Value::Null),
        ("architectures", json!([])),
        ("architectures", json!(["LLaMAForCausalLM"])),
        ("architectures", json!(["FSDPLlamaForCausalLM"])),
        ("rope_scaling", old_name),
        ("rope_scaling", newer.clone()),
        ("rope_parameters", newer),
        ("rope_parameters", scaling),
        ("original_max_position_embeddings", json!(8192)),
    ];
    for (field, value) in rows {
        let shown = format!("{field} = {value}");
        match Llama3Shape::from_hf(&config_with(field, value)) {
            Ok(shape) => assert_eq!(shape, expected, "{shown}"),
            Err(error) => panic!("{shown} was refused: {error}"),
        }
    }
    let biases = Llama3Shape::from_hf(&config_with("attention_bias", json!(true))).unwrap();
    assert_eq!(biases, Llama3Shape { attention_bias: true, ..expected.clone() });
    let biases = Llama3Shape::from_hf(&config_with("mlp_bias", json!(true))).unwrap();
    assert_eq!(biases, Llama3Shape { mlp_bias: true, ..expected });
}

#[test]
fn dynamic_scaling_lets_sequences_be_longer_than_the_model_was_trained_on() {
    let scaling = json!({ "rope_type": "dynamic", "factor": 2.5 });
    let mut config = config_with("rope_scaling", scaling);
    config["max_position_embeddings"] = json!(2048);
    let shape = Llama3Shape::from_hf(&config).unwrap();
    assert_eq!(shape.max_seq_len, 5120);
    let original_max_position_embeddings = 2048;
    let scaling = RopeScaling::Dynamic { factor: 2.5, original_max_position_embeddings };
    assert_eq!(shape.rope_scaling, Some(scaling));
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
        ("attention_bias", json!("yes")),
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
        ("rope_scaling", rope("longrope")),
        ("rope_scaling", rope("llama3")),
        ("rope_scaling", rope("default")),
        ("rope_scaling", json!({ "rope_type": "linear" })),
        ("rope_scaling", json!({ "rope_type": "linear", "factor": 0.5 })),
        ("rope_scaling", json!({ "type": "linear", "rope_type": "yarn", "factor": 2.0 })),
        ("rope_scaling", json!({ "rope_type": "linear", "factor": 2.0, "beta_fast": 32 })),
        (
            "rope_scaling",
            json!({ "rope_type": "yarn", "factor": 2.0, "beta_fast": 1, "beta_slow": 2 }),
        ),
        ("rope_scaling", json!({ "rope_type": "yarn", "factor": 2.0, "attention_factor": 0.0 })),
        (
            "rope_scaling",
            json!({ "rope_type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 64 }),
        ),
        ("rope_scaling", json!([8.0])),
        ("rope_parameters", json!({ "rope_type": "default" })),
        ("rope_parameters", json!({ "rope_type": "default", "rope_theta": 1e4 })),
        ("rope_parameters", json!({ "rope_type": "default", "partial_rotary_factor": 0.5 })),
        (
            "rope_parameters",
            json!({
                "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192, "rope_type": "llama3", "rope_theta": 1e4
            }),
        ),
        ("rope_interleaved", json!(true)),
        ("use_sliding_window", json!(true)),
        ("sliding_window", json!(4096)),
        ("partial_rotary_factor", json!(0.5)),
        ("quantization_config", json!({ "bits": 4 })),
        ("embedding_multiplier", json!(12.0)),
        ("final_logit_softcapping", json!(30.0)),
        ("layer_types", json!(["full_attention", "sliding_attention"])),
        ("pruned_heads", json!({ "0": [1] })),
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
