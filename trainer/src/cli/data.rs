//! `dream-train data`: work on training data ahead of a run.

use std::{io::Write, path::PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};

use crate::callbacks::{Terminal, finish_console};
use crate::data::{
    DataError, DocumentFormat, PrepareOptions, PreparedTokens, TokenWidth, TokenizerChoice,
    TokenizerOptions, prepare, sidecar_path,
};
use crate::world::{path_with_home, with_home};

/// Works on training data ahead of a run.
#[derive(Debug, Args)]
pub struct DataArgs {
    #[command(subcommand)]
    command: DataCommand,
}

#[derive(Debug, Subcommand)]
enum DataCommand {
    /// Tokenizes text or JSON lines into one token file, which `data.source = "tokens"` reads.
    Prepare(PrepareArgs),
}

#[derive(Debug, Args)]
struct PrepareArgs {
    /// Glob patterns of the input files, read in the order of their paths.
    #[arg(long, required = true, num_args = 1.., value_name = "GLOB")]
    input: Vec<String>,
    /// Kind of the input files [default: `jsonl` if all end in `.jsonl` or `.jsonl.gz`, `text` if none does].
    #[arg(long, value_enum)]
    source: Option<SourceArg>,
    /// Key of the text in a JSON line [default: text]. Implies `--source jsonl`.
    #[arg(long)]
    field: Option<String>,
    /// `byte`, or the path of a Hugging Face `tokenizer.json`.
    #[arg(long, default_value = "byte", value_name = "byte|FILE")]
    tokenizer: String,
    /// Token file to write; its description goes to FILE.json.
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// Width of a token id [default: the narrowest that holds the vocabulary].
    #[arg(long, value_enum)]
    width: Option<WidthArg>,
    /// Id put after every document [default: the tokenizer's end-of-text id, if it has one].
    #[arg(long, value_name = "ID")]
    eos_id: Option<u32>,
    /// Begins every document with the tokenizer's begin-of-text id.
    #[arg(long)]
    add_bos: bool,
    /// Reads names of special tokens in a text as these tokens.
    #[arg(long)]
    parse_special_tokens: bool,
    /// Replaces an existing output.
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SourceArg {
    /// A file is a document.
    Text,
    /// A line is a JSON object that holds a document.
    Jsonl,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum WidthArg {
    /// Unsigned 16-bit, ids up to 65,535.
    U16,
    /// Unsigned 32-bit.
    U32,
}

/// Runs a `data` subcommand and writes its report to `out`; progress goes to the terminal.
pub fn run(args: &DataArgs, out: &mut (impl Write + ?Sized)) -> Result<(), DataError> {
    match &args.command {
        DataCommand::Prepare(args) => run_prepare(args, out),
    }
}

fn run_prepare(args: &PrepareArgs, out: &mut (impl Write + ?Sized)) -> Result<(), DataError> {
    let terminal = Terminal::standard().ok().map(Terminal::with_bars);
    let bar = progress_bar(terminal.as_ref());
    let prepared = prepare(&args.options()?, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    finish_console();
    let report = report(args, &prepared?);
    out.write_all(report.as_bytes())
        .map_err(|source| DataError::Write { path: "standard output".into(), source })
}

impl PrepareArgs {
    fn options(&self) -> Result<PrepareOptions, DataError> {
        Ok(PrepareOptions {
            input: self.input.iter().map(|pattern| with_home(pattern)).collect(),
            format: self.format()?,
            tokenizer: TokenizerChoice::from(self.tokenizer.as_str()),
            tokenizer_options: TokenizerOptions {
                parse_special_tokens: self.parse_special_tokens,
                add_bos: self.add_bos,
            },
            output: self.output(),
            width: self.width.map(|width| match width {
                WidthArg::U16 => TokenWidth::U16,
                WidthArg::U32 => TokenWidth::U32,
            }),
            eos_id: self.eos_id,
            overwrite: self.force,
        })
    }

    fn output(&self) -> PathBuf {
        path_with_home(&self.output)
    }

    fn format(&self) -> Result<Option<DocumentFormat>, DataError> {
        match (self.source, &self.field) {
            (None, None) => Ok(None),
            (Some(SourceArg::Text), None) => Ok(Some(DocumentFormat::Text)),
            (Some(SourceArg::Text), Some(field)) => Err(DataError::OutOfRange {
                key: "--field",
                value: field.clone(),
                constraint: "left out with `--source text`".into(),
            }),
            (Some(SourceArg::Jsonl), None) => {
                Ok(Some(DocumentFormat::Jsonl { field: "text".into() }))
            }
            (_, Some(field)) => Ok(Some(DocumentFormat::Jsonl { field: field.clone() })),
        }
    }
}

/// Draws on a terminal, and nowhere where there is none.
fn progress_bar(terminal: Option<&Terminal>) -> ProgressBar {
    let template = "tokenizing [{bar:40}] {bytes}/{total_bytes} {bytes_per_sec} eta {eta}";
    let style = ProgressStyle::with_template(template).expect("the template is a constant");
    let bar = match terminal.filter(|terminal| terminal.shows_bars()) {
        Some(terminal) => terminal.add_bar(ProgressBar::new(0)),
        None => ProgressBar::hidden(),
    };
    bar.with_style(style.progress_chars("=> "))
}

fn report(args: &PrepareArgs, prepared: &PreparedTokens) -> String {
    let sidecar = &prepared.sidecar;
    let eos_id = sidecar.eos_id.map_or_else(|| "none".into(), |id| id.to_string());
    format!(
        "wrote {} ({} tokens as {}) and {}\n\
         files read: {}, documents: {}, empty documents left out: {}\n\
         tokenizer: {} with {} ids, end-of-document id: {eos_id}\n",
        args.output().display(),
        sidecar.num_tokens,
        sidecar.width,
        sidecar_path(&args.output()).display(),
        prepared.num_files,
        sidecar.num_documents,
        sidecar.num_empty_documents,
        sidecar.tokenizer,
        sidecar.vocab_size,
    )
}
