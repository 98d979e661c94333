//! Text and JSON lines: documents to ids, tokenizers, cached copies and damage.

use std::fs;

use dream_trainer::data::{DataConfig, SourceName};

use crate::fixture::{Folder, explain, names, open, table, tokenizer_json, tokens};

const EOS: i32 = 256;

/// Returns the ids of a table's data up to the last, which is only a label.
fn ids(config: &DataConfig) -> Vec<i32> {
    tokens(&open(config, 1).unwrap().train)
}

#[test]
fn a_text_file_is_a_document_ended_by_an_id() {
    let folder = Folder::new();
    folder.write("b.txt", b"\xff\n");
    folder.write("a.txt", "hi");
    folder.write("aa.txt", "");
    folder.write("sub/c.txt", "!");
    let config = table(SourceName::Text, &[folder.pattern("**/*.txt"), folder.pattern("a.txt")]);
    let (h, i) = (i32::from(b'h'), i32::from(b'i'));
    assert_eq!(ids(&config), [h, i, EOS, 255, 10, EOS, i32::from(b'!')]);
    let dataset = open(&config, 1).unwrap().train;
    assert_eq!((dataset.vocab_size().unwrap(), dataset.eos_id()), (257, Some(256)));
    assert_eq!(
        dataset.describe(),
        "7 sequences of 1 tokens from 4 text files (8 tokens, tokenizer `byte`)"
    );
}

#[test]
fn a_json_line_is_a_document() {
    let folder = Folder::new();
    let lines = [
        r#"{"text": "a\n\u00e9"}"#,
        "",
        r#" {"id": [1, {"text": "no"}], "text": "b", "z": null} "#,
        r#"{"text": ""}"#,
        r#"{"text": "c"}"#,
    ];
    folder.write("a.jsonl", lines.join("\r\n"));
    let config = table(SourceName::Jsonl, &[folder.pattern("a.jsonl")]);
    let expected = [97, 10, 0xc3, 0xa9, EOS, 98, EOS, 99];
    assert_eq!(ids(&config), expected);
    folder.write("b.jsonl", lines.join("\n").replace("\"text\"", "\"body\""));
    let config = DataConfig {
        field: Some("body".into()),
        ..table(SourceName::Jsonl, &[folder.pattern("b.jsonl")])
    };
    assert_eq!(ids(&config), expected);
}

#[test]
fn many_documents_keep_their_order_over_threads() {
    let folder = Folder::new();
    let lines: Vec<_> = (0..5000).map(|i| format!(r#"{{"text": "{i}"}}"#)).collect();
    folder.write("a.jsonl", lines.join("\n"));
    let expected: Vec<i32> = (0..5000)
        .flat_map(|i: i32| i.to_string().into_bytes().into_iter().map(i32::from).chain([EOS]))
        .collect();
    let from_lines = ids(&table(SourceName::Jsonl, &[folder.pattern("a.jsonl")]));
    assert_eq!(from_lines, expected[..expected.len() - 1]);
    for i in 0..500 {
        folder.write(&format!("{i:03}.txt"), i.to_string());
    }
    let expected: Vec<i32> = (0..500)
        .flat_map(|i: i32| i.to_string().into_bytes().into_iter().map(i32::from).chain([EOS]))
        .collect();
    let from_files = ids(&table(SourceName::Text, &[folder.pattern("*.txt")]));
    assert_eq!(from_files, expected[..expected.len() - 1]);
}

#[test]
fn a_hugging_face_tokenizer_encodes_whole_documents() {
    let folder = Folder::new();
    folder.write("a.txt", "a b c a");
    folder.write("b.txt", "z what");
    let tokenizer = folder.write("tok/tokenizer.json", tokenizer_json());
    let config = DataConfig {
        tokenizer: Some(tokenizer.to_str().unwrap().into()),
        ..table(SourceName::Text, &[folder.pattern("*.txt")])
    };
    assert_eq!(ids(&config), [0, 1, 2, 0, 4, 9, 3]);
    assert_eq!(open(&config, 1).unwrap().train.vocab_size().unwrap(), 10);
    let given = DataConfig { eos_id: Some(2), ..config.clone() };
    assert_eq!(ids(&given), [0, 1, 2, 0, 2, 9, 3]);
    for (json, eos_id) in [
        (r#"{"eos_token": "b"}"#, Some(1)),
        (r#"{"eos_token": {"content": "z"}}"#, Some(9)),
        (r#"{"eos_token": null}"#, Some(4)),
        (r#"{"eos_token": "absent"}"#, None),
    ] {
        folder.write("tok/tokenizer_config.json", json);
        assert_eq!(open(&config, 1).unwrap().train.eos_id(), eos_id, "{json}");
    }
}

#[test]
fn damaged_documents_and_tokenizers_are_named() {
    let folder = Folder::new();
    folder.write("latin1.txt", b"caf\xe9 ol\xe9");
    folder.write("later.txt", b"a\r\nb\nc \xe9");
    folder.write("zero.txt", b"a\nb\0c");
    folder.write("gzip.txt", gzip(&[b"a"]));
    folder.write("gzip.jsonl", gzip(&[b"{\"text\": \"a\"}"]));
    folder.write("inside/a.txt", "a");
    folder.write("latin1.jsonl", b"{\"text\": \"a\"}\n{\"text\": \"\xe9\"}");
    folder.write("zero.jsonl", b"{\"text\": \"a\"}\n{\"text\": \"\0\"}");
    folder.write("blank.jsonl", "\n\r\n\n");
    folder.write("empty.jsonl", "");
    folder.write("broken.jsonl", "{\"text\": \"a\"}\n{\"text\": \"b\"");
    folder.write("array.jsonl", "[1]");
    folder.write("number.jsonl", "{\"text\": 1}");
    folder.write("twice.jsonl", "{\"text\": \"a\", \"text\": \"b\"}");
    folder.write("trailing.jsonl", "{\"text\": \"a\"} x");
    folder.write("field.jsonl", "{\"text\": \"a\"}\n\n{\"body\": \"a\", \"id\": 1}");
    folder.write("none.jsonl", "{}");
    folder.write("tokenizer.json", tokenizer_json());
    folder.write("broken.json", "{\"version\": \"1.0\"}");
    let message = |source, name: &str, tokenizer: Option<&str>, eos_id| {
        let config = DataConfig {
            tokenizer: tokenizer.map(|name| folder.pattern(name)),
            eos_id,
            ..table(source, &[folder.pattern(name)])
        };
        folder.redact(&explain(&open(&config, 1).unwrap_err()))
    };
    let mut messages = vec![
        message(SourceName::Text, "latin1.txt", Some("tokenizer.json"), None),
        message(SourceName::Text, "latin1.txt", Some("absent.json"), None),
        message(SourceName::Text, "latin1.txt", Some("broken.json"), None),
        message(SourceName::Text, "latin1.txt", Some("tokenizer.json"), Some(10)),
        message(SourceName::Text, "latin1.txt", None, Some(257)),
        message(SourceName::Text, "later.txt", Some("tokenizer.json"), None),
        message(SourceName::Text, "zero.txt", Some("tokenizer.json"), None),
        message(SourceName::Text, "gzip.txt", None, None),
        message(SourceName::Text, "inside", None, None),
    ];
    for name in [
        "broken", "array", "number", "twice", "trailing", "field", "none", "absent", "latin1",
        "zero", "gzip", "blank", "empty",
    ] {
        messages.push(message(SourceName::Jsonl, &format!("{name}.jsonl"), None, None));
    }
    insta::assert_snapshot!(messages.join("\n"), @r"
    `DIR/latin1.txt` line 1 is not UTF-8, at byte 3 of the document [convert the file to UTF-8 or use the `byte` tokenizer]
    cannot read the tokenizer `DIR/absent.json`: No such file or directory (os error 2) [`data.tokenizer` is `byte` or the path of a `tokenizer.json`]
    `DIR/broken.json` is no Hugging Face `tokenizer.json`: Model missing. at line 1 column 17
    `eos_id` is `10` but must be below the 10 ids of the tokenizer `DIR/tokenizer.json`
    `eos_id` is `257` but must be below the 257 ids of the tokenizer `byte`
    `DIR/later.txt` line 3 is not UTF-8, at byte 7 of the document [convert the file to UTF-8 or use the `byte` tokenizer]
    `DIR/zero.txt` line 2 holds a zero byte, so it is no text [convert the file to UTF-8 or use the `byte` tokenizer]
    `DIR/gzip.txt` is compressed by gzip, but its name does not end in `.gz` [name it `.gz`, or expand it]
    cannot read `DIR/inside`: it is a folder, not a regular file
    `DIR/broken.jsonl` line 2 column 12 is no JSON object with a text: EOF while parsing an object
    `DIR/array.jsonl` line 1 column 0 is no JSON object with a text: invalid type: sequence, expected a JSON object with a string under `text`
    `DIR/number.jsonl` line 1 column 10 is no JSON object with a text: invalid type: integer `1`, expected a string
    `DIR/twice.jsonl` line 1 column 20 is no JSON object with a text: the key `text` appears twice
    `DIR/trailing.jsonl` line 1 column 15 is no JSON object with a text: trailing characters
    `DIR/field.jsonl` line 3 has no field `text`; its fields are `body`, `id` [set `data.field` to the key that holds the text]
    `DIR/none.jsonl` line 1 has no field `text`; its fields are none [set `data.field` to the key that holds the text]
    no file matches `DIR/absent.jsonl` [patterns are relative to the working directory]
    `DIR/latin1.jsonl` line 2 column 11 is no JSON object with a text: invalid unicode code point
    `DIR/zero.jsonl` line 2 column 11 is no JSON object with a text: control character (\u0000-\u001F) found while parsing a string
    `DIR/gzip.jsonl` is compressed by gzip, but its name does not end in `.gz` [name it `.gz`, or expand it]
    the data hold 0 tokens, but one sequence of 1 reads 2 [add data or shorten `training_parameters.sequence_length`]
    the data hold 0 tokens, but one sequence of 1 reads 2 [add data or shorten `training_parameters.sequence_length`]
    ");
}

#[test]
fn a_file_in_both_splits_is_refused() {
    let folder = Folder::new();
    folder.write("a.txt", "aaaa");
    folder.write("b.txt", "bbbb");
    let config = DataConfig {
        validation_files: vec![folder.pattern("b.txt")],
        ..table(SourceName::Text, &[folder.pattern("*.txt")])
    };
    let message = explain(&open(&config, 1).unwrap_err());
    assert!(
        message.contains("b.txt` is matched by both `data.files` and `data.validation_files`"),
        "{message}"
    );
}

#[test]
fn cached_tokens_are_those_read_anew_and_follow_their_inputs() {
    let folder = Folder::new();
    folder.write("a.txt", "hello");
    let cache = folder.path("cache");
    let plain = table(SourceName::Text, &[folder.pattern("*.txt")]);
    let cached = DataConfig { cache_dir: Some(cache.clone()), ..plain.clone() };
    assert_eq!(ids(&cached), ids(&plain));
    let first = names(&cache);
    assert_eq!(first.len(), 2, "{first:?}");
    let written = fs::metadata(cache.join(&first[0])).unwrap().modified().unwrap();
    assert_eq!(ids(&cached), ids(&plain));
    assert_eq!(fs::metadata(cache.join(&first[0])).unwrap().modified().unwrap(), written);
    assert_eq!(
        open(&cached, 1).unwrap().train.fingerprint().unwrap(),
        open(&plain, 1).unwrap().train.fingerprint().unwrap()
    );

    folder.write("a.txt", "other");
    assert_eq!(ids(&cached), ids(&plain));
    assert_eq!(names(&cache).len(), 4);
    ids(&DataConfig { eos_id: Some(0), ..cached });
    assert_eq!(names(&cache).len(), 6);
}

#[test]
fn damaged_cached_tokens_are_written_again() {
    let folder = Folder::new();
    folder.write("a.txt", "hello");
    let cache = folder.path("cache");
    let config = DataConfig {
        cache_dir: Some(cache.clone()),
        ..table(SourceName::Text, &[folder.pattern("*.txt")])
    };
    let expected = ids(&config);
    let path = cache.join(&names(&cache)[0]);
    assert!(path.extension().is_some_and(|extension| extension == "tokens"), "{path:?}");
    let whole = fs::read(&path).unwrap();
    let mut changed = whole.clone();
    changed[3] ^= 1;
    for damaged in [&whole[..4], &whole[..5], &changed[..], &[]] {
        fs::write(&path, damaged).unwrap();
        assert_eq!(ids(&config), expected);
        assert_eq!(fs::read(&path).unwrap(), whole);
    }
    fs::remove_file(&path).unwrap();
    assert_eq!(ids(&config), expected);
}

fn gzip(parts: &[&[u8]]) -> Vec<u8> {
    let member = |part: &&[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, part).unwrap();
        encoder.finish().unwrap()
    };
    parts.iter().flat_map(member).collect()
}

#[test]
fn compressed_files_are_expanded() {
    let folder = Folder::new();
    folder.write(
        "a.jsonl.gz",
        gzip(&[b"{\"text\": \"a\"}\n{\"te", b"xt\": \"b\"}\n", b"{\"text\": \"c\"}"]),
    );
    let lines = table(SourceName::Jsonl, &[folder.pattern("a.jsonl.gz")]);
    assert_eq!(ids(&lines), [97, EOS, 98, EOS, 99]);
    folder.write("a.txt.gz", gzip(&[b"hi", b"!"]));
    assert_eq!(ids(&table(SourceName::Text, &[folder.pattern("a.txt.gz")])), [104, 105, 33]);
    for (name, bytes) in [
        ("cut.jsonl.gz", &gzip(&[&b"{\"text\": \"a\"}\n".repeat(99)])[..30]),
        ("none.jsonl.gz", b"{\"text\": \"a\"}\n"),
    ] {
        folder.write(name, bytes);
        for source in [SourceName::Jsonl, SourceName::Text] {
            let message = explain(&open(&table(source, &[folder.pattern(name)]), 1).unwrap_err());
            let expected = format!("cannot read `DIR/{name}`: ");
            assert!(folder.redact(&message).starts_with(&expected), "{message}");
        }
    }
}

#[test]
fn byte_order_marks_are_no_text() {
    let folder = Folder::new();
    folder.write("a.txt", b"\xef\xbb\xbfhi");
    assert_eq!(ids(&table(SourceName::Text, &[folder.pattern("a.txt")])), [104, 105]);
    folder.write("a.jsonl", b"\xef\xbb\xbf{\"text\": \"hi\"}");
    assert_eq!(ids(&table(SourceName::Jsonl, &[folder.pattern("a.jsonl")])), [104, 105]);
    for bytes in [&b"\xff\xfeh\0i\0"[..], b"\xfe\xff\0h\0i"] {
        folder.write("wide.txt", bytes);
        for source in [SourceName::Text, SourceName::Jsonl] {
            let config = table(source, &[folder.pattern("wide.txt")]);
            let message = folder.redact(&explain(&open(&config, 1).unwrap_err()));
            assert_eq!(
                message,
                "`DIR/wide.txt` is UTF-16, by the mark at its start [convert the file to UTF-8]"
            );
        }
    }
}

#[test]
fn a_line_may_be_longer_than_what_is_read_at_a_time() {
    let folder = Folder::new();
    let long = "x".repeat(17 << 20);
    let lines = ["a", &long, "b"].map(|text| format!(r#"{{"text": "{text}"}}"#));
    folder.write("a.jsonl", lines.join("\n"));
    let lines = open(&table(SourceName::Jsonl, &[folder.pattern("a.jsonl")]), 4096).unwrap().train;
    // Three documents, each ended by an id.
    let expected = format!("({} tokens, ", (17 << 20) + 5);
    assert!(lines.describe().contains(&expected), "{}", lines.describe());
}

#[test]
fn special_tokens_in_a_text_are_text_unless_asked_for() {
    let folder = Folder::new();
    folder.write("a.txt", "a <|endoftext|> b");
    let tokenizer = folder.write("tokenizer.json", tokenizer_json());
    let config = DataConfig {
        tokenizer: Some(tokenizer.to_str().unwrap().into()),
        ..table(SourceName::Text, &[folder.pattern("a.txt")])
    };
    let parsed = DataConfig { parse_special_tokens: true, ..config.clone() };
    assert_eq!(ids(&parsed), [0, 4, 1]);
    assert!(!ids(&config).contains(&4), "{:?}", ids(&config));
    let fingerprint = |config| open(config, 1).unwrap().train.fingerprint().unwrap();
    assert_ne!(fingerprint(&parsed), fingerprint(&config));
    let bytes = DataConfig { tokenizer: None, ..parsed };
    assert_eq!(
        explain(&open(&bytes, 1).unwrap_err()),
        "`parse_special_tokens` is `true` but must be left out with the tokenizer `byte`, which has no special tokens"
    );
}

#[test]
fn documents_begin_with_an_id_where_asked_for() {
    let folder = Folder::new();
    folder.write("a.txt", "a b");
    folder.write("b.txt", "");
    folder.write("c.txt", "c");
    let tokenizer = folder.write("tok/tokenizer.json", tokenizer_json());
    let config = DataConfig {
        tokenizer: Some(tokenizer.to_str().unwrap().into()),
        add_bos: true,
        ..table(SourceName::Text, &[folder.pattern("*.txt")])
    };
    let message = |config| folder.redact(&explain(&open(config, 1).unwrap_err()));
    assert_eq!(
        message(&config),
        "`data.add_bos` needs a begin-of-text id, but the tokenizer `DIR/tok/tokenizer.json` has none"
    );
    assert_eq!(
        message(&DataConfig { tokenizer: None, ..config.clone() }),
        "`data.add_bos` needs a begin-of-text id, but the tokenizer `byte` has none"
    );
    folder
        .write("tok/tokenizer_config.json", r#"{"bos_token": "z", "eos_token": "<|endoftext|>"}"#);
    assert_eq!(ids(&config), [9, 0, 1, 4, 9, 2]);
    assert_eq!(ids(&DataConfig { add_bos: false, ..config }), [0, 1, 4, 2]);
}
