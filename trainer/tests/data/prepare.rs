//! `data prepare`: from documents to a token file that trains the same.

use std::fs;

use dream_trainer::data::{
    DataConfig, DataError, DocumentFormat, PrepareOptions, PreparedTokens, Sidecar, SourceName,
    TokenWidth, TokenizerChoice, TokenizerOptions, prepare, sidecar_path,
};

use crate::fixture::{Folder, explain, names, open, sequences, table, tokenizer_json};

fn options(folder: &Folder, input: &str, output: &str) -> PrepareOptions {
    PrepareOptions {
        input: vec![folder.pattern(input)],
        format: None,
        tokenizer: TokenizerChoice::Byte,
        tokenizer_options: TokenizerOptions::default(),
        output: folder.path(output),
        width: None,
        eos_id: None,
        overwrite: false,
    }
}

fn run(options: &PrepareOptions) -> Result<PreparedTokens, DataError> {
    prepare(options, &mut |_, _| {})
}

#[test]
fn prepared_tokens_train_as_the_documents_do() {
    let folder = Folder::new();
    for i in 0..20 {
        folder.write(&format!("{i:02}.txt"), format!("document {i} {}", "x".repeat(i)));
    }
    folder.write("20.txt", "");
    for (name, width) in [("narrow.bin", None), ("out/wide.bin", Some(TokenWidth::U32))] {
        let mut progress = Vec::new();
        let options = PrepareOptions { width, ..options(&folder, "*.txt", name) };
        let prepared = prepare(&options, &mut |done, total| progress.push((done, total))).unwrap();
        let (done, total) = *progress.last().unwrap();
        assert_eq!(done, total);
        assert!(progress.is_sorted());
        assert_eq!((prepared.num_files, prepared.sidecar.num_documents), (21, 20));
        assert_eq!(prepared.sidecar.num_empty_documents, 1);
        assert_eq!(prepared.sidecar.width, width.unwrap_or(TokenWidth::U16));
        assert_eq!(Sidecar::load(&options.output).unwrap(), Some(prepared.sidecar));

        // Width, vocabulary and end-of-document id come from the sidecar.
        let masked = |config| DataConfig { mask_document_boundaries: true, ..config };
        let direct =
            open(&masked(table(SourceName::Text, &[folder.pattern("*.txt")])), 7).unwrap().train;
        let mapped =
            open(&masked(table(SourceName::Tokens, &[folder.pattern(name)])), 7).unwrap().train;
        assert_eq!(sequences(&direct), sequences(&mapped));
        assert_eq!(direct.fingerprint().unwrap(), mapped.fingerprint().unwrap());
        assert_eq!((mapped.vocab_size().unwrap(), mapped.eos_id()), (257, Some(256)));
    }
    assert!(names(&folder.path("out")).iter().all(|name| !name.contains("partial")));
}

#[test]
fn a_sidecar_in_a_wide_pattern_is_no_data() {
    let folder = Folder::new();
    folder.write("a.txt", "abc");
    run(&options(&folder, "a.txt", "out/a.bin")).unwrap();
    let config = table(SourceName::Tokens, &[folder.pattern("out/*")]);
    assert_eq!(open(&config, 3).unwrap().train.num_sequences(), 1);
}

#[test]
fn nothing_is_replaced_unless_asked_for() {
    let folder = Folder::new();
    folder.write("a.txt", "abc");
    folder.write("a.bin", "precious");
    folder.write("b.bin.json", "precious");
    for name in ["a.bin", "b.bin", "a.txt"] {
        let error = run(&options(&folder, "a.txt", name)).unwrap_err();
        assert!(
            matches!(error, DataError::AlreadyExists { .. } | DataError::OutputIsInput { .. }),
            "{error}"
        );
    }
    let replace_input = PrepareOptions { overwrite: true, ..options(&folder, "a.txt", "a.txt") };
    let error = run(&replace_input).unwrap_err();
    assert!(matches!(error, DataError::OutputIsInput { .. }), "{error}");
    assert_eq!(fs::read(folder.path("a.bin")).unwrap(), b"precious");
    assert_eq!(fs::read(folder.path("a.txt")).unwrap(), b"abc");
    run(&PrepareOptions { overwrite: true, ..options(&folder, "a.txt", "a.bin") }).unwrap();
    assert_eq!(fs::read(folder.path("a.bin")).unwrap(), b"a\0b\0c\0\0\x01");
}

#[cfg(unix)]
#[test]
fn only_a_file_that_is_no_input_is_replaced() {
    use std::os::unix::fs::FileTypeExt;

    let folder = Folder::new();
    let input = folder.write("a.txt", "abc");
    fs::hard_link(&input, folder.path("hard.bin")).unwrap();
    std::os::unix::fs::symlink(&input, folder.path("soft.bin")).unwrap();
    let made = std::process::Command::new("mkfifo").arg(folder.path("pipe")).status();
    assert!(made.unwrap().success());
    fs::create_dir(folder.path("folder")).unwrap();
    let replace = |name| {
        let options = PrepareOptions { overwrite: true, ..options(&folder, "a.txt", name) };
        folder.redact(&run(&options).unwrap_err().to_string())
    };
    for name in ["hard.bin", "soft.bin"] {
        assert_eq!(replace(name), format!("the output `DIR/{name}` is also an input"));
    }
    for name in ["pipe", "folder"] {
        let expected = "exists and is no regular file, so it is not replaced";
        assert_eq!(replace(name), format!("`DIR/{name}` {expected}"));
    }
    assert!(fs::metadata(folder.path("pipe")).unwrap().file_type().is_fifo());
    assert_eq!(fs::read(input).unwrap(), b"abc");
}

#[test]
fn a_failure_leaves_no_file() {
    let folder = Folder::new();
    folder.write("ok.txt", "a");
    folder.write("bad.jsonl", "{\"text\": \"a\"}\nnot json");
    folder.write("plain", "");
    folder.write("tokenizer.json", tokenizer_json().replace("\"z\": 9", "\"z\": 70000"));
    let before = names(&folder.path(""));
    let tokenizer = TokenizerChoice::File(folder.path("tokenizer.json"));
    let messages = [
        options(&folder, "bad.jsonl", "out.bin"),
        options(&folder, "*.nothing", "out.bin"),
        options(&folder, "*d.j*", "plain/out.bin"),
        PrepareOptions {
            input: vec![folder.pattern("ok.txt"), folder.pattern("bad.jsonl")],
            ..options(&folder, "", "out.bin")
        },
        PrepareOptions {
            tokenizer,
            width: Some(TokenWidth::U16),
            ..options(&folder, "ok.txt", "out.bin")
        },
    ]
    .map(|options| folder.redact(&explain(&run(&options).unwrap_err())));
    assert_eq!(names(&folder.path("")), before);
    insta::assert_snapshot!(messages.join("\n"), @r"
    `DIR/bad.jsonl` line 2 column 2 is no JSON object with a text: expected ident
    no file matches `DIR/*.nothing` [patterns are relative to the working directory]
    cannot write `DIR/plain/out.bin`: File exists (os error 17)
    `DIR/bad.jsonl` holds JSON lines but `DIR/ok.txt` does not, so the kind of the inputs is not clear [name the kind with --source text or --source jsonl]
    token ids reach 70000, but `u16` holds ids up to 65535 [use the token width `u32`]
    ");
}

#[test]
fn a_token_file_that_is_not_its_sidecars_is_refused() {
    let folder = Folder::new();
    folder.write("a.txt", "abcdefgh");
    let options = options(&folder, "a.txt", "a.bin");
    run(&options).unwrap();
    let whole = fs::read(&options.output).unwrap();
    let sidecar = fs::read_to_string(sidecar_path(&options.output)).unwrap();
    let message = |width| {
        let config = DataConfig {
            token_width: width,
            ..table(SourceName::Tokens, &[folder.pattern("a.bin")])
        };
        folder.redact(&explain(&open(&config, 2).unwrap_err()))
    };
    let mut messages = vec![message(Some(TokenWidth::U32))];
    fs::write(&options.output, &whole[..8]).unwrap();
    messages.push(message(None));
    fs::write(&options.output, [&whole[2..], &whole[..2]].concat()).unwrap();
    messages.push(message(None));
    fs::write(&options.output, &whole).unwrap();
    for text in [
        sidecar.replace("\"version\": 1", "\"version\": 2"),
        "{}".into(),
        sidecar.replace("u16", "u8"),
    ] {
        fs::write(sidecar_path(&options.output), text).unwrap();
        messages.push(message(None));
    }
    insta::assert_snapshot!(messages.join("\n"), @r"
    `data.token_width` is `u32`, but the sidecar of `DIR/a.bin` says `u16` [leave `data.token_width` out, or correct it]
    `DIR/a.bin` is not the file its sidecar describes: the number of tokens is 4, the sidecar says 9 [copy the file again together with its `.json`, or remove the sidecar if the file was replaced on purpose]
    `DIR/a.bin` is not the file its sidecar describes: the fingerprint is `a9c786ee186198fa`, the sidecar says `ae5b5c9acbf130e9` [copy the file again together with its `.json`, or remove the sidecar if the file was replaced on purpose]
    `DIR/a.bin.json` has sidecar version 2, but this program reads version 1 [write the token file again with `dream-train data prepare`, or remove the sidecar]
    `DIR/a.bin.json` is no sidecar of a token file: missing field `version` at line 1 column 2 [write the token file again with `dream-train data prepare`, or remove the sidecar]
    `DIR/a.bin.json` is no sidecar of a token file: unknown variant `u8`, expected `u16` or `u32` at line 3 column 15 [write the token file again with `dream-train data prepare`, or remove the sidecar]
    ");
}

#[test]
fn token_files_of_different_tokenizers_are_not_mixed() {
    let folder = Folder::new();
    folder.write("a.txt", "a b");
    let tokenizer = TokenizerChoice::File(folder.write("tokenizer.json", tokenizer_json()));
    run(&options(&folder, "a.txt", "1.bin")).unwrap();
    folder.write_u16("plain/0.bin", 0..4);
    run(&PrepareOptions { tokenizer, ..options(&folder, "a.txt", "2.bin") }).unwrap();
    let error = open(&table(SourceName::Tokens, &[folder.pattern("*.bin")]), 2).unwrap_err();
    assert!(matches!(error, DataError::DifferentTokenizers { .. }), "{error}");
    let config = DataConfig {
        validation_files: vec![folder.pattern("2.bin")],
        ..table(SourceName::Tokens, &[folder.pattern("1.bin")])
    };
    let error = open(&config, 2).unwrap_err();
    assert!(matches!(error, DataError::DifferentTokenizers { .. }), "{error}");
    // Nothing is known of a file without a sidecar, so it may be of the same one.
    let config = DataConfig { validation_files: vec![folder.pattern("plain/0.bin")], ..config };
    open(&config, 2).unwrap();
}

#[test]
fn json_lines_are_known_by_their_name() {
    let folder = Folder::new();
    folder.write("a.jsonl", "{\"text\": \"ab\", \"body\": \"c\"}");
    let cases = [
        (None, 3),
        (Some(DocumentFormat::Jsonl { field: "body".into() }), 2),
        (Some(DocumentFormat::Text), 28),
    ];
    for (i, (format, num_tokens)) in cases.into_iter().enumerate() {
        let options = PrepareOptions { format, ..options(&folder, "a.jsonl", &format!("{i}.bin")) };
        assert_eq!(run(&options).unwrap().sidecar.num_tokens, num_tokens);
    }
}
