//! Hugging Face directories: both layouts of weights, blocks and transposition, strict fields,
//! damage, export.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use burn::tensor::{DType, TensorData};
use dream_trainer::checkpoint::Block;
use dream_trainer::checkpoint::hf::{
    self, FieldReader, HARMLESS_FIELDS, HfDirectory, HfError, Layout,
};
use proptest::prelude::*;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use crate::fixture::{counted, explain};

/// Writes the `f32` tensors `names`, all of shape `[4, 6]`, with the safetensors crate itself.
fn write_weights(path: &Path, names: &[&str]) {
    let bytes: Vec<u8> = (0..24).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let view = |_: &&str| TensorView::new(Dtype::F32, vec![4, 6], &bytes).unwrap();
    let tensors: Vec<_> = names.iter().map(|name| (*name, view(name))).collect();
    safetensors::serialize_to_file(tensors, None, path).unwrap();
}

fn single(root: &Path) {
    fs::write(root.join("config.json"), r#"{"hidden_size": 6}"#).unwrap();
    write_weights(&root.join("model.safetensors"), &["a.weight", "b.weight"]);
}

fn sharded(root: &Path) {
    fs::write(root.join("config.json"), r#"{"hidden_size": 6}"#).unwrap();
    write_weights(&root.join("model-00001-of-00002.safetensors"), &["a.weight"]);
    write_weights(&root.join("model-00002-of-00002.safetensors"), &["b.weight"]);
    write_index(
        root,
        &json!({
            "a.weight": "model-00001-of-00002.safetensors",
            "b.weight": "model-00002-of-00002.safetensors",
        }),
    );
}

fn write_index(root: &Path, weight_map: &Value) {
    let index = json!({"metadata": {"total_size": 192}, "weight_map": weight_map});
    fs::write(root.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

#[test]
fn one_file_or_several_give_the_same_tensors() {
    for fixture in [single, sharded] {
        let root = tempfile::tempdir().unwrap();
        fixture(root.path());
        let directory = HfDirectory::open(root.path()).unwrap();
        assert_eq!(directory.tensor_names().collect::<Vec<_>>(), ["a.weight", "b.weight"]);
        assert_eq!(directory.shape("a.weight").unwrap(), [4, 6]);
        let whole = counted(&[4, 6], &Block::whole(&[4, 6]));
        assert_eq!(directory.tensor("b.weight").unwrap(), whole);
        assert_eq!(directory.config()["hidden_size"], 6);
        assert_eq!(directory.tokenizer(), None);
        fs::write(root.path().join("tokenizer.json"), "{}").unwrap();
        assert_eq!(directory.tokenizer(), Some(root.path().join("tokenizer.json")));
    }
}

#[test]
fn a_transposed_block_is_the_block_of_the_transposed_tensor() {
    let root = tempfile::tempdir().unwrap();
    single(root.path());
    let directory = HfDirectory::open(root.path()).unwrap();
    let block = Block::new([1, 2], [3, 2]);
    let read = directory.read_block("a.weight", &block, Layout::Transposed).unwrap();
    // Rows 1..4 and columns 2..4 of the transposed matrix, whose element (i, j) is 6 j + i.
    assert_eq!(read, TensorData::new(vec![13_f32, 19., 14., 20., 15., 21.], [3, 2]));
    let stored = directory.read_block("a.weight", &Block::new([2, 1], [2, 3]), Layout::Stored);
    assert_eq!(stored.unwrap(), TensorData::new(vec![13_f32, 14., 15., 19., 20., 21.], [2, 3]));
}

fn export<const N: usize>(root: &Path, tensors: [(&str, TensorData); N]) -> HfDirectory {
    let tensors = tensors.map(|(name, data)| (name.to_owned(), data));
    let config = json!({"model_type": "toy"});
    hf::export(root, &config, &BTreeMap::from(tensors)).unwrap();
    HfDirectory::open(root).unwrap()
}

#[test]
fn half_precision_is_widened_exactly() {
    let values = [0.0_f32, -1.5, 65504.0, 0.099_975_586, 6.1e-5];
    let halves = values.map(half::f16::from_f32);
    let brains = values.map(half::bf16::from_f32);
    let root = tempfile::tempdir().unwrap();
    let directory = export(
        root.path(),
        [
            ("f16", TensorData::new(halves.to_vec(), [5])),
            ("bf16", TensorData::new(brains.to_vec(), [5])),
            ("f32", TensorData::new(values.to_vec(), [5])),
            ("i64", TensorData::new(vec![1_i64; 5], [5])),
        ],
    );
    let read = |name| directory.read_f32(name, &Block::whole(&[5]), Layout::Stored);
    assert_eq!(read("f16").unwrap(), TensorData::new(halves.map(f32::from).to_vec(), [5]));
    assert_eq!(read("bf16").unwrap(), TensorData::new(brains.map(f32::from).to_vec(), [5]));
    assert_eq!(read("f32").unwrap(), TensorData::new(values.to_vec(), [5]));
    assert_eq!(directory.tensor("bf16").unwrap().dtype(), DType::BF16);
    assert_eq!(
        read("i64").unwrap_err().to_string(),
        "tensor `i64` has element type `i64` but must have `f32`, `bf16` or `f16`"
    );
}

#[test]
fn an_export_is_what_the_safetensors_crate_reads() {
    let root = tempfile::tempdir().unwrap();
    let whole = counted(&[4, 6], &Block::whole(&[4, 6]));
    export(&root.path().join("new"), [("w", whole.clone())]);
    let bytes = fs::read(root.path().join("new/model.safetensors")).unwrap();
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    assert_eq!(metadata.metadata(), &Some(format));
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.tensor("w").unwrap().data(), whole.as_bytes());
    let again = hf::export(&root.path().join("new"), &json!({}), &BTreeMap::new());
    assert!(matches!(again, Err(HfError::Exists { .. })));
}

#[test]
fn a_faulty_directory_says_what_is_wrong() {
    type Fault = fn(&Path);
    let shard = "model-00002-of-00002.safetensors";
    let rows: [(Fault, &str); 11] = [
        (|root| fs::remove_file(root.join("config.json")).unwrap(), "cannot read"),
        (
            |root| fs::write(root.join("config.json"), "{").unwrap(),
            "config.json` cannot be understood: EOF",
        ),
        (
            |root| fs::remove_file(root.join("model.safetensors.index.json")).unwrap(),
            "has neither `model.safetensors` nor `model.safetensors.index.json`",
        ),
        (|root| write_weights(&root.join("model.safetensors"), &["a.weight"]), "has both"),
        (
            |root| fs::remove_file(root.join("model-00002-of-00002.safetensors")).unwrap(),
            "model-00002-of-00002.safetensors` is missing",
        ),
        (
            |root| {
                let path = root.join("model-00002-of-00002.safetensors");
                let bytes = fs::read(&path).unwrap();
                fs::write(path, &bytes[..bytes.len() - 5]).unwrap();
            },
            "bytes but its header describes",
        ),
        (
            |root| {
                fs::write(root.join("model-00002-of-00002.safetensors"), "version https").unwrap();
            },
            "has 13 bytes, too few for its header",
        ),
        (
            |root| {
                write_index(root, &json!({"a.weight": "model-00002-of-00002.safetensors"}));
            },
            "index places `a.weight` in",
        ),
        (|root| write_index(root, &json!({"a.weight": "../x"})), "places `a.weight` in `../x`"),
        (
            |root| {
                write_weights(
                    &root.join("model-00002-of-00002.safetensors"),
                    &["a.weight", "b.weight"],
                );
            },
            "tensor `a.weight` is in",
        ),
        (
            |root| fs::write(root.join("model.safetensors.index.json"), "{}").unwrap(),
            "missing field `weight_map`",
        ),
    ];
    for (fault, expected) in rows {
        let root = tempfile::tempdir().unwrap();
        sharded(root.path());
        assert!(root.path().join(shard).exists());
        fault(root.path());
        let error = HfDirectory::open(root.path()).unwrap_err();
        assert!(explain(&error).contains(expected), "{} / {expected}", explain(&error));
    }
}

#[test]
fn wrong_questions_get_an_error() {
    let root = tempfile::tempdir().unwrap();
    let bias = TensorData::new(vec![0_f32; 4], [4]);
    let weight = counted(&[4, 6], &Block::whole(&[4, 6]));
    let tensors = [("bias", bias), ("weight", weight)];
    let directory = export(root.path(), tensors);
    let rows = [
        ("other", Block::whole(&[4]), Layout::Stored, "have no tensor `other`"),
        ("bias", Block::whole(&[4]), Layout::Transposed, "of shape [4] cannot be transposed"),
        (
            "bias",
            Block::new([2], [3]),
            Layout::Stored,
            "block [3] at [2] of `bias` lies outside of its shape [4]",
        ),
        ("weight", Block::whole(&[4, 6]), Layout::Transposed, "lies outside of its shape [6, 4]"),
        ("weight", Block::whole(&[4]), Layout::Transposed, "lies outside of its shape [6, 4]"),
    ];
    for (name, block, layout, expected) in rows {
        let error = directory.read_block(name, &block, layout).unwrap_err();
        assert!(error.to_string().contains(expected), "{error} / {expected}");
    }
}

#[test]
fn fields_are_read_ignored_or_refused() {
    let config = json!({
        "hidden_size": 64, "rms_norm_eps": 1e-5, "attention_bias": false, "use_cache": true,
        "head_dim": null, "rope_scaling": {"factor": 8.0, "rope_type": "llama3"},
    });
    let mut fields = FieldReader::new(&config).unwrap();
    assert_eq!(fields.required::<usize>("hidden_size").unwrap(), 64);
    assert_eq!(fields.optional::<f64>("rms_norm_eps").unwrap(), Some(1e-5));
    assert_eq!(fields.optional::<usize>("head_dim").unwrap(), None);
    fields.only("attention_bias", &json!(false)).unwrap();
    fields.only("mlp_bias", &json!(false)).unwrap();
    fields.ignore(&HARMLESS_FIELDS);
    let mut scaling = fields.nested("rope_scaling").unwrap().unwrap();
    assert_eq!(scaling.required::<f64>("factor").unwrap(), 8.0);
    assert_eq!(
        scaling.finish().unwrap_err().to_string(),
        "`config.json` has fields of unknown meaning: `rope_scaling.rope_type` = \"llama3\""
    );
    fields.finish().unwrap();
}

#[test]
fn a_field_that_does_not_fit_is_named_with_its_value() {
    let config =
        json!({"hidden_size": -1, "hidden_act": "gelu", "rope_scaling": 2, "x": 0, "y": 0});
    let mut fields = FieldReader::new(&config).unwrap();
    let rows = [
        fields.required::<usize>("hidden_size").unwrap_err(),
        fields.required::<usize>("num_layers").unwrap_err(),
        fields.only("hidden_act", &json!("silu")).unwrap_err(),
        fields.nested("rope_scaling").unwrap_err(),
        fields.finish().unwrap_err(),
        FieldReader::new(&json!([])).unwrap_err(),
    ];
    let messages: Vec<String> = rows.iter().map(|error| explain(error)).collect();
    insta::assert_snapshot!(messages.join("\n"), @r#"
    `hidden_size` of `config.json` is `-1`: invalid value: integer `-1`, expected usize
    `num_layers` is missing in `config.json`
    `hidden_act` of `config.json` is `"gelu"` but only `"silu"` is supported
    `rope_scaling` must be a table of fields
    `config.json` has fields of unknown meaning: `x` = 0, `y` = 0
    `config.json` must be a table of fields
    "#);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn mutated_directories_never_panic(
        file in prop::sample::select(vec![
            "config.json", "model.safetensors.index.json", "model-00001-of-00002.safetensors",
        ]),
        (at, bits) in (any::<usize>(), 1_u8..),
    ) {
        let root = tempfile::tempdir().unwrap();
        sharded(root.path());
        let path = root.path().join(file);
        let mut bytes = fs::read(&path).unwrap();
        let at = at % bytes.len();
        bytes[at] ^= bits;
        fs::write(path, bytes).unwrap();
        if let Ok(directory) = HfDirectory::open(root.path()) {
            for name in directory.tensor_names() {
                let shape = directory.shape(name).unwrap().to_vec();
                let _ = directory.tensor(name);
                let _ = directory.read_f32(name, &Block::whole(&shape), Layout::Transposed);
            }
        }
    }

    #[test]
    fn transposing_twice_is_the_identity(rows in 1_usize..70, cols in 1_usize..70) {
        let root = tempfile::tempdir().unwrap();
        let whole = counted(&[rows, cols], &Block::whole(&[rows, cols]));
        let once = export(
            &root.path().join("once"),
            [("w", whole.clone())],
        );
        let turned = once.read_block("w", &Block::whole(&[cols, rows]), Layout::Transposed).unwrap();
        let twice = export(&root.path().join("twice"), [("w", turned)]);
        let back = twice.read_block("w", &Block::whole(&[rows, cols]), Layout::Transposed).unwrap();
        prop_assert_eq!(back, whole);
    }
}
