//! Tokenizing once, ahead of training: documents in, a token file and its sidecar out.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use super::{
    DataError, DocumentFormat, Sidecar, TokenWidth, Tokenizer, TokenizerChoice, TokenizerOptions,
    documents::Documents, files, input::expanded_name, sidecar::sidecar_path, token_file,
};

/// What to tokenize, how, and where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrepareOptions {
    /// Glob patterns of the input files, which are read in the order of their paths.
    pub input: Vec<String>,
    /// How documents lie in the files; by the files' names where not given: `.jsonl` and `.jsonl.gz`
    /// are JSON lines, everything else text.
    pub format: Option<DocumentFormat>,
    /// How documents become ids.
    pub tokenizer: TokenizerChoice,
    /// What it makes of special tokens.
    pub tokenizer_options: TokenizerOptions,
    /// Token file to write.
    pub output: PathBuf,
    /// Width of an id; the narrowest that holds the vocabulary where not given.
    pub width: Option<TokenWidth>,
    /// Id after each document, instead of the tokenizer's own.
    pub eos_id: Option<u32>,
    /// Replaces an existing output.
    pub overwrite: bool,
}

/// A token file just written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreparedTokens {
    /// What its sidecar says.
    pub sidecar: Sidecar,
    /// Input files read.
    pub num_files: usize,
}

/// Tokenizes documents in parallel into a token file and its sidecar; `progress` receives the input
/// bytes done and to do.
///
/// The output appears whole or not at all, and existing files stay as they are unless overwriting
/// is asked for.
pub fn prepare(
    options: &PrepareOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<PreparedTokens, DataError> {
    let files = files::expand_globs("--input", &options.input)?;
    check_output(options, &files)?;
    let format = match &options.format {
        Some(format) => format.clone(),
        None => format_of(&files)?,
    };
    let tokenizer = Tokenizer::load(&options.tokenizer, options.tokenizer_options)?;
    let documents = Documents {
        format: &format,
        files: &files,
        tokenizer: &tokenizer,
        eos_id: tokenizer.eos_id(options.eos_id)?,
    };
    let width = options.width.unwrap_or_else(|| TokenWidth::for_vocab(tokenizer.vocab_size()));
    let total: u64 = files::sizes(&files)?.iter().sum();
    let sidecar = token_file::write(&documents, width, &options.output, &mut |done| {
        // Compressed inputs hold more than their size.
        progress(done, total.max(done));
    })?;
    Ok(PreparedTokens { sidecar, num_files: files.len() })
}

/// Refuses to replace an input, or without being asked any other file.
fn check_output(options: &PrepareOptions, files: &[PathBuf]) -> Result<(), DataError> {
    let inputs: BTreeSet<_> =
        files.iter().map(|path| files::identity(path)).collect::<Result<_, _>>()?;
    for path in [options.output.clone(), sidecar_path(&options.output)] {
        let Ok(existing) = files::identity(&path) else {
            continue;
        };
        if inputs.contains(&existing) {
            return Err(DataError::OutputIsInput { path });
        }
        // A device or a pipe under the name would be gone for everybody.
        if !path.is_file() {
            return Err(DataError::OutputIsNoFile { path });
        }
        if !options.overwrite {
            return Err(DataError::AlreadyExists { path });
        }
    }
    Ok(())
}

fn format_of(files: &[PathBuf]) -> Result<DocumentFormat, DataError> {
    let is_jsonl =
        |path: &Path| expanded_name(path).extension().is_some_and(|extension| extension == "jsonl");
    let jsonl = files.iter().find(|path| is_jsonl(path));
    let text = files.iter().find(|path| !is_jsonl(path));
    match (jsonl, text) {
        (Some(jsonl), Some(text)) => {
            Err(DataError::MixedInputs { jsonl: jsonl.clone(), text: text.clone() })
        }
        (Some(_), None) => Ok(DocumentFormat::Jsonl { field: "text".into() }),
        (None, _) => Ok(DocumentFormat::Text),
    }
}
