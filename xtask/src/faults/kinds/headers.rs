//! Changed files of other programs: token files and their sidecars, tensor files, tokenizers, Hugging
//! Face folders. Each is refused with the exit code of its kind, or is still one of its kind.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use super::Good;
use crate::command::root;
use crate::faults::dice::Dice;
use crate::faults::failure::{Failure, broken};
use crate::faults::mutation::change_bytes;
use crate::faults::stage::Stage;

/// Files of a case.
const TRIES: usize = 6;
/// How far into a file the headers reach that are changed.
const REACH: usize = 4096;
/// Done, usage, numbers that are not finite, a checkpoint, data.
const ALLOWED: [i32; 5] = [0, 2, 4, 5, 6];

/// What is changed and how a run reads it.
#[derive(Debug, Clone, Copy)]
enum Input {
    Tokens,
    Sidecar,
    Tokenizer,
    HfConfig,
    HfWeights,
    HfIndex,
}

const INPUTS: [Input; 6] = [
    Input::Tokens,
    Input::Sidecar,
    Input::Tokenizer,
    Input::HfConfig,
    Input::HfWeights,
    Input::HfIndex,
];

pub(super) fn run(stage: &mut Stage<'_>) -> Result<Good, Failure> {
    prepare(stage)?;
    for nth in 0..TRIES {
        let input = stage.dice.pick(&INPUTS);
        let folder = stage.folder.join(format!("input-{nth}"));
        copy(&stage.folder.join("input"), &folder)?;
        let path = folder.join(name(input));
        if matches!(input, Input::Tokens) && stage.dice.chance(50) {
            // Without its description a token file is taken as it is.
            fs::remove_file(folder.join(name(Input::Sidecar))).map_err(broken(path.display()))?;
        }
        if stage.dice.chance(15) {
            let what = replace(&mut stage.dice, &path)?;
            stage.note(&format!("  {input:?} {nth}: {what}"));
        } else {
            change(stage, &path)?;
        }
        let toml = toml(input, &format!("input-{nth}"), nth);
        let file = format!("input-{nth}.toml");
        fs::write(stage.folder.join(&file), toml).map_err(broken(&file))?;
        let command = stage.lab.command(&stage.folder, None, &["--config", &file]);
        let running = stage.start(command)?;
        stage.end(running)?.check(&ALLOWED)?;
        stage.check_logs()?;
    }
    Ok(Good::Completed)
}

/// Changes the head of a file once or twice.
fn change(stage: &mut Stage<'_>, path: &Path) -> Result<(), Failure> {
    let mut bytes = fs::read(path).map_err(broken(path.display()))?;
    for _ in 0..=stage.dice.below(2) {
        let what = change_bytes(&mut stage.dice, &mut bytes, REACH);
        stage.note(&format!("  {}: {what}", path.display()));
    }
    fs::write(path, bytes).map_err(broken(path.display()))
}

/// Puts something in place of a file that is no file, and says what.
fn replace(dice: &mut Dice, path: &Path) -> Result<&'static str, Failure> {
    fs::remove_file(path).map_err(broken(path.display()))?;
    let link = |target: &str| symlink(target, path).map_err(broken(path.display()));
    Ok(match dice.below(5) {
        0 => {
            let made = Command::new("mkfifo").arg(path).status();
            made.map_err(broken("mkfifo"))?;
            "a pipe without a writer"
        }
        1 => {
            fs::create_dir(path).map_err(broken(path.display()))?;
            "a folder"
        }
        2 => {
            link("/dev/zero")?;
            "a link to /dev/zero"
        }
        3 => {
            link(&path.display().to_string())?;
            "a link to itself"
        }
        _ => "nothing",
    })
}

fn name(input: Input) -> &'static str {
    match input {
        Input::Tokens => "tokens.bin",
        Input::Sidecar => "tokens.bin.json",
        Input::Tokenizer => "tokenizer.json",
        Input::HfConfig => "one/config.json",
        Input::HfWeights => "one/model.safetensors",
        Input::HfIndex => "two/model.safetensors.index.json",
    }
}

/// Makes one of each.
fn prepare(stage: &mut Stage<'_>) -> Result<(), Failure> {
    let folder = stage.folder.join("input");
    let fixtures = root().join("tests/fixtures/llama_hf");
    copy(&fixtures.join("tied_single_file"), &folder.join("one"))?;
    copy(&fixtures.join("untied_two_files"), &folder.join("two"))?;
    fs::write(folder.join("tokenizer.json"), TOKENIZER).map_err(broken("tokenizer.json"))?;
    let words = stage.lab.words().display().to_string();
    let arguments = ["data", "prepare", "--input", &words, "--output", "input/tokens.bin"];
    let running = stage.start(stage.lab.command(&stage.folder, None, &arguments))?;
    stage.end(running)?.check(&[0])?;
    fs::copy(stage.lab.words(), folder.join("words.txt")).map_err(broken("words.txt"))?;
    Ok(())
}

fn toml(input: Input, folder: &str, nth: usize) -> String {
    let (model, data) = match input {
        Input::Tokens | Input::Sidecar => {
            (SMALL.to_owned(), format!("source = \"tokens\"\nfiles = [\"{folder}/tokens.bin\"]"))
        }
        Input::Tokenizer => (
            SMALL.to_owned(),
            format!(
                "source = \"text\"\nfiles = [\"{folder}/words.txt\"]\ntokenizer = \"{folder}/tokenizer.json\""
            ),
        ),
        Input::HfConfig | Input::HfWeights => (hf(folder, "one"), SYNTHETIC.to_owned()),
        Input::HfIndex => (hf(folder, "two"), SYNTHETIC.to_owned()),
    };
    format!(
        "[model]\nname = \"llama3\"\n{model}\n[run]\noutput_dir = \"out\"\nexperiment = \"run-{nth}\"\n\
         [training_parameters]\nsteps = 2\nglobal_batch_size = 2\nsequence_length = 8\n[data]\n{data}\n"
    )
}

fn hf(folder: &str, name: &str) -> String {
    format!("hf_dir = \"{folder}/{name}\"")
}

const SMALL: &str =
    "dim = 32\nnum_layers = 1\nnum_heads = 4\nnum_kv_heads = 2\nffn_dim = 64\nvocab_size = 257";
const SYNTHETIC: &str = "source = \"synthetic\"\nvocab_size = 16\nnum_sequences = 64";
const TOKENIZER: &str = r#"{"version": "1.0", "truncation": null, "padding": null,
 "added_tokens": [{"id": 3, "content": "<end>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
 "normalizer": {"type": "Lowercase"}, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
 "model": {"type": "WordLevel", "vocab": {"<unk>": 0, "the": 1, "quick": 2, "<end>": 3, "fox": 4}, "unk_token": "<unk>"}}
"#;

/// Copies a folder with all it holds.
fn copy(from: &Path, to: &Path) -> Result<(), Failure> {
    fs::create_dir_all(to).map_err(broken(to.display()))?;
    for entry in fs::read_dir(from).map_err(broken(from.display()))?.flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target).map_err(broken(target.display()))?;
        }
    }
    Ok(())
}
