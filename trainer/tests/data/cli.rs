//! The `data prepare` command.

use clap::Parser;
use dream_trainer::cli::data::{DataArgs, run};

use crate::fixture::{Folder, explain};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    data: DataArgs,
}

/// Runs the command and returns what it prints, or its error.
fn data(folder: &Folder, args: &[&str]) -> Result<String, String> {
    let args = args.iter().map(|arg| arg.replace("DIR", &folder.pattern("")));
    let cli = Cli::try_parse_from(["data".to_owned()].into_iter().chain(args))
        .map_err(|error| error.to_string())?;
    let mut out = Vec::new();
    run(&cli.data, &mut out).map_err(|error| explain(&error))?;
    Ok(String::from_utf8(out).unwrap())
}

#[test]
fn prepare_reports_what_it_wrote() {
    let folder = Folder::new();
    folder.write("a.txt", "hello");
    folder.write("b.txt", "");
    folder.write("c.md", "{\"body\": \"hi\"}");
    let commands: [&[&str]; 5] = [
        &["prepare", "--input", "DIR/a.txt", "DIR/b.txt", "--output", "DIR/a.bin"],
        &["prepare", "--input", "DIR/a.txt", "--output", "DIR/a.bin"],
        &["prepare", "--input", "DIR/a.txt", "--output", "DIR/a.bin", "--force", "--eos-id", "0"],
        &[
            "prepare",
            "--input",
            "DIR/c.md",
            "--field",
            "body",
            "--width",
            "u32",
            "--output",
            "DIR/c.bin",
        ],
        &[
            "prepare",
            "--input",
            "DIR/c.md",
            "--field",
            "x",
            "--source",
            "text",
            "--output",
            "DIR/d.bin",
        ],
    ];
    let reports = commands.map(|args| {
        let outcome = data(&folder, args).unwrap_or_else(|error| format!("error: {error}\n"));
        folder.redact(&outcome).replace("DIR//", "DIR/")
    });
    insta::assert_snapshot!(reports.join("\n"), @r"
    wrote DIR/a.bin (6 tokens as u16) and DIR/a.bin.json
    files read: 2, documents: 1, empty documents left out: 1
    tokenizer: byte with 257 ids, end-of-document id: 256

    error: `DIR/a.bin` exists already [choose another output or pass --force to replace it]

    wrote DIR/a.bin (6 tokens as u16) and DIR/a.bin.json
    files read: 1, documents: 1, empty documents left out: 0
    tokenizer: byte with 257 ids, end-of-document id: 0

    wrote DIR/c.bin (3 tokens as u32) and DIR/c.bin.json
    files read: 1, documents: 1, empty documents left out: 0
    tokenizer: byte with 257 ids, end-of-document id: 256

    error: `--field` is `x` but must be left out with `--source text`
    ");
}

#[test]
fn prepare_refuses_an_unknown_tokenizer() {
    let folder = Folder::new();
    folder.write("a.txt", "hello");
    let args =
        ["prepare", "--input", "DIR/a.txt", "--output", "DIR/a.bin", "--tokenizer", "gpt2.json"];
    insta::assert_snapshot!(data(&folder, &args).unwrap_err(), @"cannot read the tokenizer `gpt2.json`: No such file or directory (os error 2) [`data.tokenizer` is `byte` or the path of a `tokenizer.json`]");
    assert!(!folder.path("a.bin").exists());
}
