//! Llama 3 in numbers: parameter counts, operation counts, paths, and the shapes that are refused.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use burn::tensor::Device;
use dream_models::llama3::{
    Flavor, Llama3Config, Llama3Shape, RopeScaling, RopeScalingConfig, RopeType, hf_weights,
};
use dream_trainer::nn::{ParameterEntry, Scope, parameters};

const FLAVORS: [(Flavor, &str, usize); 6] = [
    (Flavor::Debug, "debug", 6_163_712),
    (Flavor::B1, "1B", 1_235_814_400),
    (Flavor::B3, "3B", 3_212_749_824),
    (Flavor::B8, "8B", 8_030_261_248),
    (Flavor::B70, "70B", 70_553_706_496),
    (Flavor::B405, "405B", 405_853_388_800),
];

#[test]
fn flavors_have_the_published_number_of_parameters() {
    for (flavor, name, expected) in FLAVORS {
        let config: Llama3Config =
            serde_json::from_value(serde_json::json!({ "flavor": name })).unwrap();
        let shape = config.resolve().unwrap();
        assert_eq!(shape, Llama3Shape::flavor(flavor), "{name}");
        assert_eq!(shape.num_params(), expected, "{name}");
        // The module holds no value yet: 405B would not fit.
        let model = shape.init(&Scope::root(Device::flex(), 0));
        let counted: usize = parameters(&model).iter().map(ParameterEntry::num_elements).sum();
        assert_eq!(counted, expected, "{name}, counted in the module");
    }
}

#[test]
fn one_token_costs_the_published_number_of_operations() {
    let rows = [
        (Flavor::B1, 10.64),
        (Flavor::B3, 27.73),
        (Flavor::B8, 57.91),
        (Flavor::B70, 481.4),
        (Flavor::B405, 2625.0),
    ];
    for (flavor, expected) in rows {
        let giga = Llama3Shape::flavor(flavor).flops_per_token(8192) * 1e-9;
        let relative = (giga / expected - 1.0_f64).abs();
        assert!(relative < 5e-4, "{flavor:?}: {giga} GFLOP, expected {expected}");
    }
}

#[test]
fn module_paths_scope_paths_and_hugging_face_table_agree() {
    let rows = [
        (false, false, false),
        (true, false, false),
        (false, true, false),
        (false, false, true),
        (true, true, true),
    ];
    for (tied_embeddings, attention_bias, mlp_bias) in rows {
        let config = Llama3Config {
            num_layers: Some(2),
            num_kv_heads: Some(4),
            tied_embeddings: Some(tied_embeddings),
            attention_bias: Some(attention_bias),
            mlp_bias: Some(mlp_bias),
            ..Llama3Config::default()
        };
        let shape = config.resolve().unwrap();
        let scope = Scope::root(Device::flex(), 0);
        let model = shape.init(&scope);
        let mut table = hf_weights(&shape);
        let counted: usize = parameters(&model).iter().map(ParameterEntry::num_elements).sum();
        assert_eq!(counted, shape.num_params(), "{config:?}");
        for param in parameters(&model) {
            let spec = scope.spec(param.id).expect("made under this scope");
            assert_eq!(spec.path, param.path);
            assert_eq!(spec.shape, param.shape);
            let weight = table.remove(&param.path).unwrap_or_else(|| panic!("{}", param.path));
            assert_eq!(weight.param_shape(), param.shape, "{}", param.path);
        }
        assert!(table.is_empty(), "no such parameter: {table:?}");
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused_with_both_numbers() {
    let scaling = |factor, high_freq_factor| RopeScalingConfig {
        factor: Some(factor),
        low_freq_factor: Some(1.0),
        high_freq_factor: Some(high_freq_factor),
        original_max_position_embeddings: Some(64),
        ..RopeScalingConfig::default()
    };
    let debug = Llama3Config::default;
    let rows = [
        (
            Llama3Config { dim: Some(100), ..debug() },
            "`dim` is 100 but must be a multiple of `num_heads` = 16",
        ),
        (
            Llama3Config { num_kv_heads: Some(3), ..debug() },
            "`num_heads` is 16 but must be a multiple of `num_kv_heads` = 3",
        ),
        (
            Llama3Config { num_kv_heads: Some(0), ..debug() },
            "`num_kv_heads` is 0 but must be at least 1",
        ),
        (Llama3Config { num_heads: Some(0), ..debug() }, "`num_heads` is 0 but must be at least 1"),
        (
            Llama3Config { head_dim: Some(15), ..debug() },
            "`head_dim` is 15 but must be even, since rotary positions turn pairs",
        ),
        (
            Llama3Config { norm_eps: Some(0.0), ..debug() },
            "`norm_eps` is 0 but must be positive and finite",
        ),
        (
            Llama3Config { rope_theta: Some(f64::NAN), ..debug() },
            "`rope_theta` is NaN but must be positive and finite",
        ),
        (
            Llama3Config { rope_scaling: Some(scaling(0.5, 4.0)), ..debug() },
            "`rope_scaling.factor` is 0.5 but must be at least 1 and finite",
        ),
        (
            Llama3Config { rope_scaling: Some(scaling(8.0, 1.0)), ..debug() },
            "`rope_scaling.high_freq_factor` is 1 but must be greater than `low_freq_factor`",
        ),
        (
            Llama3Config { hf_dir: Some("x".into()), dim: Some(64), ..debug() },
            "`dim` is given, but `hf_dir` already fixes it",
        ),
        (
            Llama3Config { hf_dir: Some("x".into()), mlp_bias: Some(false), ..debug() },
            "`mlp_bias` is given, but `hf_dir` already fixes it",
        ),
    ];
    for (config, message) in rows {
        assert_eq!(config.resolve().unwrap_err().to_string(), message);
    }
    let too_long = Llama3Shape::flavor(Flavor::Debug).check_sequence(131_073).unwrap_err();
    assert_eq!(too_long.to_string(), "sequence length is 131073 but `max_seq_len` = 131072");
}

/// Each method reads its keys and no others.
#[test]
fn scalings_take_the_keys_of_their_method() {
    let parse = |table: &str| {
        let scaling: RopeScalingConfig = serde_json::from_str(table).unwrap();
        let config = Llama3Config { rope_scaling: Some(scaling), ..Llama3Config::default() };
        config.resolve().map(|shape| shape.rope_scaling)
    };
    let original = 64;
    let accepted = [
        (r#"{"rope_type": "default"}"#, None),
        (r#"{"rope_type": "linear", "factor": 2}"#, Some(RopeScaling::Linear { factor: 2.0 })),
        (
            r#"{"rope_type": "dynamic", "factor": 2, "original_max_position_embeddings": 64}"#,
            Some(RopeScaling::Dynamic { factor: 2.0, original_max_position_embeddings: original }),
        ),
    ];
    for (table, expected) in accepted {
        assert_eq!(parse(table).unwrap(), expected, "{table}");
    }
    let refused = [
        (
            r#"{"rope_type": "default", "factor": 2}"#,
            "`rope_scaling.factor` is given, but `rope_scaling.rope_type = \"default\"` does not read it",
        ),
        (
            r#"{"rope_type": "linear"}"#,
            "`rope_scaling.factor` is missing, which `rope_scaling.rope_type = \"linear\"` needs",
        ),
        (
            r#"{"factor": 2}"#,
            "`rope_scaling.low_freq_factor` is missing, which `rope_scaling.rope_type = \"llama3\"` needs",
        ),
        (
            r#"{"rope_type": "dynamic", "factor": 2}"#,
            "`rope_scaling.original_max_position_embeddings` is missing, which `rope_scaling.rope_type = \"dynamic\"` needs",
        ),
        (
            r#"{"rope_type": "linear", "factor": 2, "truncate": false}"#,
            "`rope_scaling.truncate` is given, but `rope_scaling.rope_type = \"linear\"` does not read it",
        ),
        (
            r#"{"rope_type": "yarn", "factor": 2, "original_max_position_embeddings": 64, "mscale": 1}"#,
            "`rope_scaling.mscale_all_dim` is missing, which `rope_scaling.mscale` needs",
        ),
        (
            r#"{"rope_type": "yarn", "factor": 2, "original_max_position_embeddings": 64, "mscale": 1, "mscale_all_dim": 1, "attention_factor": 1}"#,
            "`rope_scaling.mscale` is given, but `rope_scaling.attention_factor` does not read it",
        ),
        (
            r#"{"rope_type": "yarn", "factor": 2, "original_max_position_embeddings": 64, "beta_fast": 1}"#,
            "`rope_scaling.beta_fast` is 1 but must be greater than `beta_slow`",
        ),
        (
            r#"{"rope_type": "yarn", "factor": 2, "original_max_position_embeddings": 0}"#,
            "`rope_scaling.original_max_position_embeddings` is 0 but must be at least 1",
        ),
    ];
    for (table, message) in refused {
        assert_eq!(parse(table).unwrap_err().to_string(), message, "{table}");
    }
    let two = Llama3Config {
        head_dim: Some(2),
        rope_scaling: Some(RopeScalingConfig {
            rope_type: RopeType::Dynamic,
            factor: Some(2.0),
            original_max_position_embeddings: Some(original),
            ..RopeScalingConfig::default()
        }),
        ..Llama3Config::default()
    };
    let message = "`head_dim` is 2 but must be above 2 with `dynamic` scaling";
    assert_eq!(two.resolve().unwrap_err().to_string(), message);
}

#[test]
fn rotary_frequencies_are_stretched_by_wavelength() {
    let plain = Llama3Shape { rope_scaling: None, ..Llama3Shape::flavor(Flavor::B8) };
    let scaled = Llama3Shape::flavor(Flavor::B8);
    let (plain, scaled) = (plain.rope_frequencies(64), scaled.rope_frequencies(64));
    assert_eq!(plain.len(), 64);
    for (plain, scaled) in plain.iter().zip(&scaled) {
        let wavelength = std::f64::consts::TAU / plain;
        let ratio = plain / scaled;
        match wavelength {
            w if w < 8192.0 / 4.0 => assert!((ratio - 1.0).abs() < 1e-12, "{w}: {ratio}"),
            w if w > 8192.0 => assert!((ratio - 8.0).abs() < 1e-12, "{w}: {ratio}"),
            w => assert!(ratio > 1.0 && ratio < 8.0, "{w}: {ratio}"),
        }
    }
}

#[test]
fn unknown_keys_are_refused() {
    let parsed = serde_json::from_str::<Llama3Config>(r#"{ "flavour": "8B" }"#);
    assert!(parsed.unwrap_err().to_string().contains("unknown field `flavour`"));
    let parsed = serde_json::from_str::<Llama3Config>(r#"{ "flavor": "7B" }"#);
    assert!(parsed.unwrap_err().to_string().contains("unknown variant `7B`"));
}
