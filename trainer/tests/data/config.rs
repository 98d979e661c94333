//! The `[data]` table: what it resolves to and what it refuses.

use dream_trainer::data::{DataConfig, DataPlan};

use crate::fixture::explain;

fn resolve(table: &str) -> Result<DataPlan, String> {
    let config: DataConfig = toml::from_str(table).map_err(|error| error.to_string())?;
    config.resolve().map_err(|error| {
        assert!(error.is_configuration(), "{error:?}");
        explain(&error)
    })
}

#[test]
fn refuses_keys_that_cannot_take_effect() {
    let rows = [
        (
            "files = ['a']",
            "`data.files` belongs to the source `text`, `jsonl` or `tokens`, but `data.source` is `synthetic`",
        ),
        ("eos_id = 3", "`data.eos_id` belongs to the source `text`, `jsonl` or `tokens`"),
        ("mask_document_boundaries = true", "`data.mask_document_boundaries` belongs to"),
        ("validation_files = ['a']", "`data.validation_files` belongs to"),
        (
            "source = 'text'\nfiles = ['a']\nfield = 'text'",
            "`data.field` belongs to the source `jsonl`, but `data.source` is `text`",
        ),
        (
            "source = 'jsonl'\nfiles = ['a']\ntoken_width = 'u32'",
            "`data.token_width` belongs to the source `tokens`",
        ),
        (
            "source = 'tokens'\nfiles = ['a']\ntokenizer = 'byte'",
            "`data.tokenizer` belongs to the source `text` or `jsonl`",
        ),
        (
            "source = 'tokens'\nfiles = ['a']\ncache_dir = 'c'",
            "`data.cache_dir` belongs to the source `text` or `jsonl`",
        ),
        (
            "source = 'text'\nfiles = ['a']\nvocab_size = 10",
            "`data.vocab_size` belongs to the source `synthetic`",
        ),
        (
            "source = 'text'\nfiles = ['a']\nnum_sequences = 10",
            "`data.num_sequences` belongs to the source `synthetic`",
        ),
        ("source = 'tokens'", "`data.files` is empty, but `data.source` = `tokens` needs it"),
        (
            "source = 'text'\nfiles = ['a[']",
            "`data.files` holds `a[`, which is no valid glob pattern",
        ),
        (
            "source = 'text'\nfiles = ['a']\nvalidation_files = ['***']",
            "`data.validation_files` holds `***`",
        ),
        ("validation_fraction = 1.0", "`data.validation_fraction` is `1` but must be in [0, 1)"),
        ("validation_fraction = -0.5", "`data.validation_fraction` is `-0.5`"),
        ("validation_fraction = nan", "`data.validation_fraction` is `NaN`"),
        (
            "source = 'text'\nfiles = ['a']\nvalidation_files = ['b']\nvalidation_fraction = 0.1",
            "`data.validation_fraction` and `data.validation_files` are both given, but they exclude each other",
        ),
        ("vocab_size = 1", "`data.vocab_size` is `1` but must be in [2, 2147483647]"),
        ("num_sequences = 0", "`data.num_sequences` is `0` but must be at least 1"),
        (
            "source = 'parquet'",
            "unknown variant `parquet`, expected one of `text`, `jsonl`, `tokens`, `synthetic`",
        ),
        ("shufle = true", "unknown field `shufle`"),
    ];
    for (table, expected) in rows {
        let message = resolve(table).unwrap_err();
        assert!(message.contains(expected), "{table}\n  gives    {message}\n  expected {expected}");
    }
}

#[test]
fn fills_in_the_defaults_of_the_source() {
    let plans = [
        "",
        "source = 'text'\nfiles = ['docs/**/*.md']\nvalidation_fraction = 0.1",
        "source = 'jsonl'\nfiles = ['a.jsonl']\ntokenizer = 'tok/tokenizer.json'\nshuffle = false",
        "source = 'tokens'\nfiles = ['a.bin']\nvalidation_files = ['b.bin']\neos_id = 2\nmask_document_boundaries = true",
    ]
    .map(|table| serde_json::to_string(&resolve(table).unwrap()).unwrap());
    insta::assert_snapshot!(plans.join("\n"), @r#"
    {"source":{"synthetic":{"vocab_size":256,"num_sequences":65536}},"shuffle":true,"mask_document_boundaries":false,"validation":"none"}
    {"source":{"documents":{"format":"text","files":["docs/**/*.md"],"tokenizer":"byte","options":{"parse_special_tokens":false,"add_bos":false},"eos_id":null,"cache_dir":null}},"shuffle":true,"mask_document_boundaries":false,"validation":{"fraction":0.1}}
    {"source":{"documents":{"format":{"jsonl":{"field":"text"}},"files":["a.jsonl"],"tokenizer":{"file":"tok/tokenizer.json"},"options":{"parse_special_tokens":false,"add_bos":false},"eos_id":null,"cache_dir":null}},"shuffle":false,"mask_document_boundaries":false,"validation":"none"}
    {"source":{"tokens":{"files":["a.bin"],"width":null,"eos_id":2}},"shuffle":true,"mask_document_boundaries":true,"validation":{"files":["b.bin"]}}
    "#);
}
